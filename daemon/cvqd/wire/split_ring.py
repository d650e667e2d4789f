"""The split virtqueue in memory, virtio 1.3 §2.7, seen from both ends.

``SplitRing`` is the only place that touches a live split ring.  Indices and
ring slots are 16 bits and go through ``memoryview.cast("H")``, a single load or
store in every CPython; ``struct.pack_into`` would clear the field first, and
the other end could see a zero index.  Everything that an index publishes
(descriptors, used elements, payload) may be copied in any way.

The caller is responsible for memory ordering: the rings in ``core.queues``
place the fences and name each one's partner.  Only little-endian hosts are
supported, where native and virtio byte order agree.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

DESC_NEXT: Final = 1
DESC_WRITE: Final = 2
DESC_INDIRECT: Final = 4

#: available ring: no call is wanted; used ring: no kick, virtio 1.3 §2.7.7, §2.7.10
NO_NOTIFICATION: Final = 1

MAX_SIZE: Final = 32768

DESCRIPTOR: Final = struct.Struct("<QIHH")


class Descriptor(NamedTuple):
    """One descriptor, copied out of the table; ``length`` in bytes, flag bits, index of the next."""

    address: int
    length: int
    flags: int
    next: int


class RingAddresses(NamedTuple):
    """Addresses of the three parts of a ring; the context determines the address space."""

    descriptors: int
    available: int
    used: int


class RingSizes(NamedTuple):
    """Bytes of the three parts, including event fields even if EVENT_IDX was not negotiated."""

    descriptors: int
    available: int
    used: int


def ring_sizes(num: int) -> RingSizes:
    """Sizes of a ring of ``num`` descriptors, virtio 1.3 §2.7."""
    return RingSizes(16 * num, 6 + 2 * num, 6 + 8 * num)


def crossed(event: int, new: int, old: int) -> bool:
    """Whether an index that went from ``old`` to ``new`` has passed ``event``, virtio 1.3 §2.7.7.2."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


class SplitRing:
    """A live split ring of ``num`` descriptors in three windows of memory.

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
        self._used = used.cast("H")
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
        """Descriptor index in the slot of free-running ``index``, as the driver wrote it: unchecked."""
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
        return self._used[1]

    @used_index.setter
    def used_index(self, index: int) -> None:
        self._used[1] = index & 0xFFFF

    @property
    def driver_flags(self) -> int:
        """``NO_NOTIFICATION`` or 0; means nothing with EVENT_IDX."""
        return self._available[0]

    @driver_flags.setter
    def driver_flags(self, flags: int) -> None:
        self._available[0] = flags

    @property
    def used_event(self) -> int:
        """Used index at which the driver wants to be called; valid only with EVENT_IDX."""
        return self._available[2 + self.num]

    @used_event.setter
    def used_event(self, index: int) -> None:
        self._available[2 + self.num] = index & 0xFFFF

    # driver side

    @property
    def device_flags(self) -> int:
        """``NO_NOTIFICATION`` or 0; means nothing with EVENT_IDX."""
        return self._used[0]

    @device_flags.setter
    def device_flags(self, flags: int) -> None:
        self._used[0] = flags

    @property
    def available_event(self) -> int:
        """Available index at which the device wants to be kicked; valid only with EVENT_IDX."""
        return self._used[2 + 4 * self.num]

    @available_event.setter
    def available_event(self, index: int) -> None:
        self._used[2 + 4 * self.num] = index & 0xFFFF

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
