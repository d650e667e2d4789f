"""The shipped guest: memory of its own and the driver's side of a virtqueue of either format.

It can be as honest or as hostile as a test wants: any descriptor, any index
(``DriverQueue.ring`` is the live ring itself).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import trio

from cvqd.host.shared_memory import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SHRINK
from cvqd.testing.played_ring import PlayedRing, Table
from cvqd.testing.steps import RingSetup
from cvqd.wire.packed_ring import PackedRing
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.split_ring import DESC_WRITE, Descriptor, RingAddresses, SplitRing
from cvqd.wire.vhost_user import DescriptorKind
from cvqd.wire.vhost_user_payloads import RegionDescription

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_SPLIT: Final = RingFormat()
_NOTIFY: Final = (1).to_bytes(8, "little")


class GuestMemory:
    """``size`` bytes of a memfd, ``sealed`` against resizing, that the guest sees at ``guest_address``.

    ``user_address`` is the front-end's address of the same bytes (different on
    purpose, so that confusing the two is detected).  The guest's first byte
    lies at ``mmap_offset`` in the file.  ``allocate`` never frees.
    """

    def __init__(
        self,
        size: int = 4 << 20,
        guest_address: int = 0x4000_0000,
        user_address: int = 0x7F00_0000_0000,
        mmap_offset: int = 0,
        *,
        sealed: bool = True,
    ) -> None:
        self.description: Final = RegionDescription(guest_address, size, user_address, mmap_offset)
        self.size = size
        self.guest_address = guest_address
        self._fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._fd, mmap_offset + size)
        if sealed:
            fcntl.fcntl(self._fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)
        self._view = memoryview(mmap.mmap(self._fd, mmap_offset + size))[mmap_offset:]
        self._next = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The memfd, for SET_MEM_TABLE."""
        return self._fd

    def user_address(self, guest_address: int) -> int:
        """The front-end's address of a guest address."""
        return guest_address - self.guest_address + self.description.user_address

    def allocate(self, size: int, align: int = 16) -> int:
        """Guest address of fresh zeroed bytes; MemoryError when there are none left."""
        begin = -(-self._next // align) * align
        if begin + size > self.size:
            raise MemoryError(f"the guest has no {size} bytes left")
        self._next = begin + size
        return self.guest_address + begin

    def view(self, guest_address: int, length: int) -> memoryview:
        """Those bytes, writable; IndexError outside the memory."""
        begin = guest_address - self.guest_address
        if begin < 0 or begin + length > self.size:
            raise IndexError(f"{guest_address:#x}+{length:#x} is not the guest's")
        return self._view[begin : begin + length]

    def write(self, guest_address: int, data: bytes) -> None:
        """Put bytes there."""
        self.view(guest_address, len(data))[:] = data

    def close(self) -> None:
        """Close the memfd; the mapping goes with its last view."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Segment(NamedTuple):
    """One descriptor's worth of a chain: guest address, bytes, and whether the device writes it."""

    address: int
    length: int
    writable: bool = False


class Used(NamedTuple):
    """What the device gave back: head (in a packed ring the id) and bytes written."""

    head: int
    written: int


class DriverQueue:
    """The driver's side of ring ``index``; it owns its kick eventfd and its call descriptors.

    ``call_kind`` is what the back-end is given to signal: an eventfd, or like
    virtio_uml one end of a socket pair or a pipe.  A packed ring is in ``packed``, a split one in ``ring``.
    """

    def __init__(
        self,
        memory: GuestMemory,
        index: int,
        num: int = 256,
        call_kind: DescriptorKind = DescriptorKind.EVENTFD,
        ring_format: RingFormat = _SPLIT,
    ) -> None:
        self.memory = memory
        self.index = index
        self.num = num
        self.format = ring_format
        sizes = ring_format.sizes(num)
        self.addresses: Final = RingAddresses(*map(memory.allocate, sizes, ring_format.alignment))
        live = ring_format.open(num, map(memory.view, self.addresses, sizes))
        self._played = PlayedRing(live, ring_format, partial(_table, memory))
        self.kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._call_end, self.call = _call_descriptors(call_kind)

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

    def setup(self) -> RingSetup:
        """As a front-end hands it over: in the front-end's addresses."""
        addresses = RingAddresses(*map(self.memory.user_address, self.addresses))
        return RingSetup(self.index, self.num, addresses, self.kick, self.call, self._played.base)

    def restart(self) -> None:
        """Begin anew after a reset: an empty ring, indices 0."""
        for address, length in zip(self.addresses, self.format.sizes(self.num), strict=True):
            self.memory.view(address, length)[:] = bytes(length)
        self._played = PlayedRing(self._played.ring, self.format, partial(_table, self.memory))

    def skip_to(self, index: int) -> None:
        """Let a split ring that is not in use look as if it had been used ``index`` times."""
        self._played.skip_to(index)

    def add(self, segments: Sequence[Segment]) -> int:
        """Publish a chain; its head.  IndexError when too few descriptors are free.  Does not notify."""
        return self._played.add(
            [(segment.address, segment.length, DESC_WRITE if segment.writable else 0) for segment in segments]
        )

    def add_raw(self, head: int, descriptors: Sequence[tuple[int, Descriptor]] = ()) -> None:
        """Write descriptors at the given table slots as they are and publish ``head``; nothing is checked.

        Split rings only.  Slots are not taken from the free ones: do not mix with ``add`` in one ring's life.
        """
        for slot, descriptor in descriptors:
            self.ring.put_descriptor(slot, descriptor)
        self.publish(head)

    def publish(self, head: int) -> None:
        """Make ``head`` (u16) of a split ring available."""
        self._played.publish_head(head)

    def notify(self) -> None:
        """Ring the kick eventfd, wanted or not."""
        os.write(self.kick, _NOTIFY)

    def notify_if_wanted(self) -> None:
        """Ring the kick eventfd as Linux does: unless the device has said that it need not be told."""
        if self._played.kick_wanted():
            self.notify()

    def poll(self) -> Used | None:
        """Next used element, None if there is none; frees the chain's descriptors."""
        returned = self._played.take()
        return None if returned is None else Used(*returned)

    async def wait(self) -> Used:
        """Next used element, waiting for the call descriptor under trio."""
        while (used := self.poll()) is None:
            await trio.lowlevel.wait_readable(self._call_end)
            self.drain_call()
        await trio.lowlevel.checkpoint()
        return used

    def drain_call(self) -> bool:
        """Take back what the device signalled; False if it had not."""
        try:
            return bool(os.read(self._call_end, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Close all descriptors; harmless when repeated."""
        for fd in {self.kick, self.call, self._call_end} - {-1}:
            os.close(fd)
        self.kick = self.call = self._call_end = -1


def _table(memory: GuestMemory, size: int) -> Table:
    address = memory.allocate(size)
    return Table(address, memory.view(address, size))


def _call_descriptors(kind: DescriptorKind) -> tuple[int, int]:
    """Our end, non-blocking, and the one for the back-end; they are the same for an eventfd."""
    match kind:
        case DescriptorKind.EVENTFD:
            ours = theirs = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        case DescriptorKind.SOCKET:
            ours, theirs = (end.detach() for end in socket.socketpair())
        case DescriptorKind.PIPE:
            ours, theirs = os.pipe2(os.O_CLOEXEC)
        case _:
            raise ValueError(f"a call descriptor is no {kind.value}")
    os.set_blocking(ours, False)
    return ours, theirs
