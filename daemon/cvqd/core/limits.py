"""The settings that apply to a driver's life and to its commands."""

from __future__ import annotations

from dataclasses import dataclass

from cvqd.core.site_policy import EVERYTHING, SitePolicy


@dataclass(frozen=True, slots=True)
class Limits:
    """Policy on isolation, ``deadline`` in seconds, ``max_command`` in bytes.

    ``mac`` (6 bytes) is the address at the start of each driver's life, None for the device's own;
    ``site`` holds the rules for the guest's commands.
    """

    require_isolation: bool
    deadline: float
    max_command: int
    mac: bytes | None = None
    site: SitePolicy = EVERYTHING
