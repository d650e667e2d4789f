"""What the configuration says of commands, for those who serve them."""

from __future__ import annotations

from dataclasses import dataclass

from cvqd.core.site_policy import EVERYTHING, SitePolicy


@dataclass(frozen=True, slots=True)
class Limits:
    """Policy on isolation, ``deadline`` in seconds, ``max_command`` in bytes.

    ``mac`` (6 bytes) is the address at the start of each driver's life, None leaves the device's own;
    ``site`` are the rules for the guest's commands.
    """

    require_isolation: bool
    deadline: float
    max_command: int
    mac: bytes | None = None
    site: SitePolicy = EVERYTHING
