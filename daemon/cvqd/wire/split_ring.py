"""The split virtqueue in memory, virtio 1.3 §2.7, seen from both ends.

``SplitRing`` is the one place that touches a live ring.  Indices and ring
slots are 16 bits and go through ``memoryview.cast("H")``, a single load or
store in every CPython; ``struct.pack_into`` would clear the field first and
the other end would see a zero index.  Everything that an index publishes
(descriptors, used elements, payload) may be copied in any way.

Ordering is the caller's: ``core.guest_queue`` and ``core.shadow_queue`` place
the fences and name each one's partner.  Only little-endian hosts are served,
where native and virtio byte order agree.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

DESC_NEXT: Final = 1
DESC_WRITE: Final = 2
DESC_INDIRECT: Final = 4

MAX_SIZE: Final = 32768

DESCRIPTOR: Final = struct.Struct("<QIHH")


class Descriptor(NamedTuple):
    """One descriptor, copied out of the table: bytes, bytes, flag bits, index."""

    address: int
    length: int
    flags: int
    next: int


class RingAddresses(NamedTuple):
    """Where the three parts of a ring lie, in whatever address space the context names."""

    descriptors: int
    available: int
    used: int


class RingSizes(NamedTuple):
    """Bytes of the three parts; event fields included, negotiated or not."""

    descriptors: int
    available: int
    used: int


def ring_sizes(num: int) -> RingSizes:
    """Sizes of a ring of ``num`` descriptors, virtio 1.3 §2.7."""
    return RingSizes(16 * num, 6 + 2 * num, 6 + 8 * num)


class SplitRing:
    """A live split ring of ``num`` descriptors over three byte windows.

    The windows must have exactly ``ring_sizes(num)`` bytes and ``num`` must be a power of two.
    """

    def __init__(self, num: int, descriptors: memoryview, available: memoryview, used: memoryview) -> None:
        if num < 1 or num > MAX_SIZE or num & (num - 1):
            raise ValueError(f"ring size {num} is not a power of two up to {MAX_SIZE}")
        if (len(descriptors), len(available), len(used)) != ring_sizes(num):
            raise ValueError("ring windows do not have the sizes of the ring")
        self.num = num
        self._mask = num - 1
        self._descriptors = descriptors
        self._available = available.cast("H")
        self._used_index = used.cast("H")
        self._used_elements = used[: 4 + 8 * num].cast("I")

    # device side

    @property
    def available_index(self) -> int:
        """Free-running index of the next entry the driver will publish."""
        return self._available[1]

    @available_index.setter
    def available_index(self, index: int) -> None:
        self._available[1] = index & 0xFFFF

    def available_head(self, index: int) -> int:
        """Descriptor index in the slot of free-running ``index``; unchecked, the driver wrote it."""
        return self._available[2 + (index & self._mask)]

    def descriptor(self, index: int) -> Descriptor:
        """Copy of descriptor ``index`` (< num); the driver may change the original at any time."""
        return Descriptor._make(DESCRIPTOR.unpack_from(self._descriptors, 16 * index))

    def put_used(self, index: int, head: int, written: int) -> None:
        """Fill the used element of free-running ``index``; not visible before ``used_index`` moves."""
        slot = 1 + 2 * (index & self._mask)
        self._used_elements[slot] = head
        self._used_elements[slot + 1] = written

    @property
    def used_index(self) -> int:
        """Free-running index of the next used element the device will publish."""
        return self._used_index[1]

    @used_index.setter
    def used_index(self, index: int) -> None:
        self._used_index[1] = index & 0xFFFF

    # driver side

    def put_descriptor(self, index: int, descriptor: Descriptor) -> None:
        """Fill descriptor ``index``; not visible before ``available_index`` moves past its chain."""
        self._descriptors[16 * index : 16 * index + 16] = DESCRIPTOR.pack(*descriptor)

    def put_available(self, index: int, head: int) -> None:
        """Put ``head`` in the slot of free-running ``index``."""
        self._available[2 + (index & self._mask)] = head

    def used_element(self, index: int) -> tuple[int, int]:
        """Head and written length in the slot of free-running ``index``."""
        slot = 1 + 2 * (index & self._mask)
        return self._used_elements[slot], self._used_elements[slot + 1]
