"""The shipped guest: memory of its own and the driver's side of a split virtqueue.

It can be as honest or as hostile as a test wants: any descriptor, any index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cvqd.wire.split_ring import Descriptor, RingAddresses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvqd.testing.sequences import RingSetup
    from cvqd.wire.vhost_user_payloads import RegionDescription


class GuestMemory:
    """``size`` bytes of a sealed memfd that the guest sees at ``guest_address``.

    ``user_address`` is the front-end's address of the same bytes (different on
    purpose: whoever confuses the two is found out).  ``allocate`` never frees.
    """

    def __init__(
        self, size: int = 4 << 20, guest_address: int = 0x4000_0000, user_address: int = 0x7F00_0000_0000
    ) -> None:
        self.size = size
        self.guest_address = guest_address
        self.user_address = user_address

    @property
    def description(self) -> RegionDescription:
        """The region as SET_MEM_TABLE says it; the descriptor is ``fileno()``."""

    def fileno(self) -> int:
        """The memfd."""

    def allocate(self, size: int, align: int = 16) -> int:
        """Guest address of fresh zeroed bytes."""

    def view(self, guest_address: int, length: int) -> memoryview:
        """Those bytes, writable."""

    def close(self) -> None:
        """Unmap and close."""


class Segment(NamedTuple):
    """One descriptor's worth of a chain: guest address, bytes, and whether the device writes it."""

    address: int
    length: int
    writable: bool = False


class Used(NamedTuple):
    """What the device gave back: head and bytes written."""

    head: int
    written: int


class DriverQueue:
    """The driver's side of ring ``index``, with a kick and a call eventfd of its own.

    ``call`` may be replaced by any descriptor that is written to (socket, pipe).
    """

    def __init__(self, memory: GuestMemory, index: int, num: int = 256) -> None:
        self.index = index
        self.num = num
        self.kick: int
        self.call: int

    @property
    def addresses(self) -> RingAddresses:
        """Guest-physical."""

    def setup(self) -> RingSetup:
        """As a front-end hands it over."""

    def add(self, segments: Sequence[Segment]) -> int:
        """Publish a chain; its head.  IndexError when no descriptor is free.  Does not notify."""

    def add_raw(self, head: int, descriptors: Sequence[tuple[int, Descriptor]] = ()) -> None:
        """Write descriptors at the given table slots as they are and publish ``head``, checks none."""

    def notify(self) -> None:
        """Ring the kick eventfd."""

    def poll(self) -> Used | None:
        """Next used element, None if there is none; frees the chain's descriptors."""

    async def wait(self) -> Used:
        """Next used element, waiting for the call descriptor under trio."""

    def close(self) -> None:
        """Close both descriptors."""
