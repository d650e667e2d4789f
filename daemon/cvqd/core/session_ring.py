"""One ring as the front-end described it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cvqd.errors import FrontendError

if TYPE_CHECKING:
    from cvqd.wire.split_ring import RingAddresses
    from cvqd.wire.vhost_user import FileDescriptor


@dataclass(slots=True)
class Ring:
    """``addresses`` are the front-end's own (see ``Session.guest_ring``), ``num`` in descriptors.

    ``num`` 0 means that none was set.  A ring without ``kick`` is stopped.
    """

    num: int = 0
    addresses: RingAddresses | None = None
    base: int = 0
    enabled: bool = False
    kick: FileDescriptor | None = None
    call: FileDescriptor | None = None
    err: FileDescriptor | None = None

    @property
    def configured(self) -> bool:
        """NUM, ADDR and KICK are there."""
        return self.num > 0 and self.addresses is not None and self.kick is not None


def check_ring_size(request: str, num: int, most: int) -> None:
    """FrontendError unless a power of two up to ``most``, as ``drivers/vhost/vhost.c`` demands of every ring."""
    if num < 1 or num & (num - 1):
        raise FrontendError(request, f"ring size {num} is not a power of two")
    if num > most:
        raise FrontendError(request, f"ring size {num} is above the device's maximum of {most}")
