"""A split ring in plain memory, for tests that play both ends of it."""

from __future__ import annotations

from cvqd.core.address_space import AddressSpace
from cvqd.wire.split_ring import DESC_NEXT, DESC_WRITE, Descriptor, RingAddresses, SplitRing, ring_sizes
from cvqd.wire.vhost_vdpa import Access

BASE = 0x10000
DATA = 0x8000


def no_fence() -> None:
    """One thread needs no barrier."""


class RingMemory:
    """Guest memory of 128 KiB at ``BASE`` with a ring at its beginning and buffers from ``DATA`` on."""

    def __init__(self, num: int = 8) -> None:
        self.bytes = memoryview(bytearray(128 << 10))
        self.space = AddressSpace()
        self.space.add(BASE, self.bytes, Access.READ_WRITE)
        sizes = ring_sizes(num)
        self.addresses = RingAddresses(BASE, BASE + 0x2000, BASE + 0x4000)
        starts = [address - BASE for address in self.addresses]
        parts = [self.bytes[start : start + size] for start, size in zip(starts, sizes, strict=True)]
        self.ring = SplitRing(num, *parts)
        self._published = 0

    def write(self, offset: int, data: bytes) -> int:
        """Put data in the buffer area; its guest address."""
        start = DATA + offset
        self.bytes[start : start + len(data)] = data
        return BASE + start

    def descriptor(
        self, index: int, address: int, length: int, *, write: bool = False, following: int | None = None
    ) -> None:
        """Fill a descriptor as a driver would."""
        flags = (DESC_WRITE if write else 0) | (0 if following is None else DESC_NEXT)
        self.ring.put_descriptor(index, Descriptor(address, length, flags, following or 0))

    def publish(self, *heads: int) -> None:
        """Make heads available."""
        for head in heads:
            self.ring.put_available(self._published, head)
            self._published = (self._published + 1) & 0xFFFF
        self.ring.available_index = self._published

    def command(self, data: bytes, head: int = 0, offset: int = 0, answer: int = 1) -> int:
        """A readable command and ``answer`` writable bytes, published; the status byte's guest address."""
        status = self.write(offset + len(data), b"\xff" * answer)
        self.descriptor(head, self.write(offset, data), len(data), following=head + 1)
        self.descriptor(head + 1, status, answer, write=True)
        self.publish(head)
        return status

    def byte(self, address: int) -> int:
        """One byte of guest memory."""
        return self.bytes[address - BASE]
