"""One ring of a driver directly on a vDPA device, in an ``Arena``, with eventfds of its own."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from cvqd.testing.played_ring import PlayedRing, Table
from cvqd.wire.packed_ring import PackedRing
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.split_ring import DESC_WRITE, RingAddresses, SplitRing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvqd.testing.arena import Arena

_SPLIT: Final = RingFormat()


class Buffer(NamedTuple):
    """One descriptor of a chain: address, bytes, whether the device writes it."""

    iova: int
    length: int
    writable: bool = False


class DriverRing:
    """The driver's side of ring ``index`` of ``num`` descriptors, with eventfds of its own.

    Buffers lie where the caller says.
    """

    def __init__(self, arena: Arena, index: int, num: int = 64, ring_format: RingFormat = _SPLIT) -> None:
        sizes = ring_format.sizes(num)
        self.format: Final = ring_format
        self.index: Final = index
        self.num: Final = num
        self.addresses: Final = RingAddresses(*(arena.allocate(size, 4096) for size in sizes))
        live = ring_format.open(num, map(arena.view, self.addresses, sizes))
        self._played: Final = PlayedRing(live, ring_format, partial(_table, arena))
        self._buffers: dict[int, int] = {}
        self.kick_fd: Final = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.call_fd: Final = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def ring(self) -> SplitRing:
        """The live split ring."""
        assert isinstance(self._played.ring, SplitRing)
        return self._played.ring

    @property
    def packed(self) -> PackedRing:
        """The live packed ring."""
        assert isinstance(self._played.ring, PackedRing)
        return self._played.ring

    def add(self, buffers: Sequence[Buffer]) -> int:
        """Publish a chain; its head, or its id in a packed ring.  Does not kick."""
        head = self._played.add(
            [(iova, length, DESC_WRITE if writable else 0) for iova, length, writable in buffers]
        )
        self._buffers[head] = buffers[0].iova
        return head

    def buffer(self, head: int) -> int:
        """Address of the first buffer of a chain that was added last under this head."""
        return self._buffers[head]

    def publish(self, head: int) -> None:
        """Offer the chain that begins at ``head`` of a split ring, whatever it is."""
        self._played.publish_head(head)

    def kick(self) -> None:
        """Tell the device."""
        os.eventfd_write(self.kick_fd, 1)

    def poll(self) -> tuple[int, int] | None:
        """Head and bytes written of the next used element, None if there is none."""
        return self._played.take()

    async def wait(self) -> tuple[int, int]:
        """The next used element, waiting for the call eventfd."""
        while (element := self.poll()) is None:
            await self.called()
        return element

    async def called(self) -> None:
        """Wait for the call eventfd and clear it."""
        while True:
            await trio.lowlevel.wait_readable(self.call_fd)
            try:
                os.eventfd_read(self.call_fd)
            except BlockingIOError:
                continue
            return

    def close(self) -> None:
        """Close both eventfds; the device must have let go of them."""
        os.close(self.kick_fd)
        os.close(self.call_fd)


def _table(arena: Arena, size: int) -> Table:
    iova = arena.allocate(size)
    return Table(iova, arena.view(iova, size))
