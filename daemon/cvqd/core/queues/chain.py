"""One buffer that a driver published: readable segments, then writable ones.

A chain is given copies of descriptors, checks them and turns them into views of
memory.  The two ring formats differ only in how descriptors follow each other,
also inside an indirect table, which is not decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.errors import GuestError
from cvqd.wire.split_ring import DESC_WRITE, DESCRIPTOR
from cvqd.wire.vhost_vdpa import Access

if TYPE_CHECKING:
    from cvqd.core.address_space import AddressSpace

#: descriptors in an indirect table, at most
LONGEST_TABLE: Final = 256
#: descriptors of a chain, however long the ring is: VIRTQUEUE_MAX_SIZE of QEMU, UIO_MAXIOV for vhost.
#: Following 32768 of them takes 0.1 s, in which nothing else is done.
LONGEST_CHAIN: Final = 1024


class Chain:
    """One popped descriptor chain.

    ``head`` identifies it to the driver: the first descriptor's index, or in a packed ring the buffer id.
    ``descriptors`` counts those in the ring itself, not those in an indirect table.
    """

    __slots__ = ("descriptors", "fault", "head", "readable", "writable")

    def __init__(self, head: int, descriptors: int = 1) -> None:
        self.head = head
        self.descriptors = descriptors
        self.readable: list[memoryview] = []
        self.writable: list[memoryview] = []
        self.fault: GuestError | None = None

    def add(self, memory: AddressSpace, address: int, length: int, flags: int) -> None:
        """Append the segment of one descriptor; GuestError if it is not mapped or out of order."""
        if not length:
            raise GuestError("chain.empty_segment", f"a descriptor at {address:#x} has no bytes")
        if flags & DESC_WRITE:
            self.writable += memory.slices(address, length, Access.WRITE)
        elif self.writable:
            raise GuestError("chain.order", f"a readable descriptor at {address:#x} behind a writable one")
        else:
            self.readable += memory.slices(address, length, Access.READ)

    def release(self) -> None:
        """Drop the views, so that a chain that is remembered does not keep guest memory mapped."""
        self.readable.clear()
        self.writable.clear()

    @property
    def readable_length(self) -> int:
        """Bytes the driver wants read."""
        return sum(map(len, self.readable))

    @property
    def writable_length(self) -> int:
        """Bytes the driver lets us write."""
        return sum(map(len, self.writable))

    def read(self, limit: int) -> bytes:
        """Copy up to ``limit`` of the readable bytes; each is read from memory once."""
        parts: list[memoryview] = []
        for segment in self.readable:
            parts.append(segment[:limit])
            limit -= len(parts[-1])
            if not limit:
                break
        return b"".join(parts)

    def write(self, data: bytes) -> int:
        """Write to the beginning of the writable part; the number of bytes for which there was room."""
        written = 0
        for segment in self.writable:
            part = data[written : written + len(segment)]
            segment[: len(part)] = part
            written += len(part)
            if written == len(data):
                break
        return written


def indirect_table(memory: AddressSpace, address: int, length: int) -> list[tuple[int, int, int, int]]:
    """A copy of an indirect table: address, length and two 16-bit fields of each descriptor.

    A chain must not be longer than the ring (virtio 1.3 §2.7.5.3.1), but Linux may use a table longer than
    a small ring (``virtqueue_add_split``, drivers/virtio/virtio_ring.c): hence one limit for rings of all
    sizes.
    """
    count, rest = divmod(length, DESCRIPTOR.size)
    if rest or not 0 < count <= LONGEST_TABLE:
        raise GuestError("chain.indirect", f"a table of {length} bytes")
    copy = b"".join(memory.slices(address, length, Access.READ))
    return list(DESCRIPTOR.iter_unpack(copy))
