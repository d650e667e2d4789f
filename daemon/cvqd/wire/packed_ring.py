"""The packed virtqueue in memory, virtio 1.3 §2.8, seen from both ends.

Both ends write to one descriptor ring.  Two flag bits of a descriptor say,
relative to a wrap counter, which end owns it.  As in ``split_ring``, everything
that publishes (a descriptor's flags, each field of an event area) is a single
16-bit store through ``memoryview.cast("H")``; address, length and id are
written before the flags and may be copied in any way.

The caller is responsible for memory ordering.  Only little-endian hosts are
supported.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from cvqd.wire.split_ring import MAX_SIZE, RingSizes

DESC_AVAILABLE: Final = 1 << 7
DESC_USED: Final = 1 << 15
_OWNERSHIP: Final = DESC_AVAILABLE | DESC_USED

#: flags of an event area, virtio 1.3 §2.8.10; the last one needs EVENT_IDX
EVENT_ENABLE: Final = 0
EVENT_DISABLE: Final = 1
EVENT_DESCRIPTOR: Final = 2

#: the bit that holds the wrap counter in an event's offset and in each half of a base
WRAP: Final = 1 << 15

_DESCRIPTOR: Final = struct.Struct("<QIHH")
_BODY: Final = struct.Struct("<QIH")
_USED: Final = struct.Struct("<IH")


class PackedDescriptor(NamedTuple):
    """One descriptor, copied out of the ring; ``length`` in bytes, ``id`` of the buffer, flag bits."""

    address: int
    length: int
    id: int
    flags: int


def packed_sizes(num: int) -> RingSizes:
    """Sizes of the descriptor ring and the driver's and the device's event area, virtio 1.3 §2.8."""
    return RingSizes(16 * num, 4, 4)


def available_flags(*, wrap: bool) -> int:
    """Ownership bits of a descriptor that the driver makes available in a lap with this wrap counter."""
    return DESC_AVAILABLE if wrap else DESC_USED


def used_flags(*, wrap: bool) -> int:
    """Ownership bits of a descriptor that the device gives back in a lap with this wrap counter."""
    return _OWNERSHIP if wrap else 0


class PackedBase(NamedTuple):
    """Where a packed ring continues: position and wrap counter of the next available and the next used one.

    As a number it is what SET_VRING_BASE and GET_VRING_BASE carry (QEMU ``docs/interop/vhost-user.rst``,
    ``drivers/vhost/vhost.c``): bits 0-14 and 15 next available, bits 16-30 and 31 next used.
    """

    available: int
    available_wrap: bool
    used: int
    used_wrap: bool

    @classmethod
    def decode(cls, word: int) -> PackedBase:
        """From 32 bits."""
        return cls(word & WRAP - 1, bool(word & WRAP), word >> 16 & WRAP - 1, bool(word >> 16 & WRAP))

    def behind_used(self) -> PackedBase:
        """The base from which unfinished buffers are fetched again."""
        return PackedBase(self.used, self.used_wrap, self.used, self.used_wrap)

    def encode(self) -> int:
        """As 32 bits."""
        available = self.available | (WRAP if self.available_wrap else 0)
        return available | (self.used | (WRAP if self.used_wrap else 0)) << 16


#: a ring that was never used: both wrap counters start at 1, virtio 1.3 §2.8.1
INITIAL_BASE: Final = PackedBase(0, True, 0, True).encode()  # noqa: FBT003 - two of four fields


class PackedRing:
    """A live packed ring of ``num`` descriptors in three windows of memory.

    The windows must have exactly ``packed_sizes(num)`` bytes.
    """

    def __init__(
        self, num: int, descriptors: memoryview, driver_event: memoryview, device_event: memoryview
    ) -> None:
        if not 1 <= num <= MAX_SIZE:
            raise ValueError(f"ring size {num} is not between 1 and {MAX_SIZE}")
        if (len(descriptors), len(driver_event), len(device_event)) != packed_sizes(num):
            raise ValueError("ring windows do not have the sizes of the ring")
        self.num = num
        self._descriptors = descriptors
        self._words = descriptors.cast("H")
        self._driver_event = driver_event.cast("H")
        self._device_event = device_event.cast("H")

    def flags(self, position: int) -> int:
        """Flags of a descriptor, which say who owns it."""
        return self._words[8 * position + 7]

    @property
    def was_round(self) -> bool:
        """Whether any descriptor has its USED bit set: none has until the device gives back a buffer.

        Later the device sets it in odd laps, and the driver in even ones.  So none has it again only if the
        driver wrote every descriptor last in an odd lap, or the device in an even one.
        """
        return any(self.flags(position) & DESC_USED for position in range(self.num))

    def put_flags(self, position: int, flags: int) -> None:
        """Hand a descriptor over to the other end."""
        self._words[8 * position + 7] = flags

    def descriptor(self, position: int) -> PackedDescriptor:
        """Copy of a descriptor; the other end may change the original at any time."""
        return PackedDescriptor._make(_DESCRIPTOR.unpack_from(self._descriptors, 16 * position))

    def put_body(self, position: int, address: int, length: int, id_: int) -> None:
        """Fill a descriptor, except for its flags."""
        at = 16 * position
        self._descriptors[at : at + 14] = _BODY.pack(address, length, id_)

    def put_used(self, position: int, id_: int, written: int) -> None:
        """Fill a used descriptor, except for its flags: buffer id and bytes written."""
        at = 16 * position + 8
        self._descriptors[at : at + 6] = _USED.pack(written, id_)

    @property
    def driver_event(self) -> tuple[int, int]:
        """When the driver wants to be called: descriptor offset with wrap bit, flags."""
        return self._driver_event[0], self._driver_event[1]

    @driver_event.setter
    def driver_event(self, event: tuple[int, int]) -> None:
        self._driver_event[0], self._driver_event[1] = event

    @property
    def device_event(self) -> tuple[int, int]:
        """When the device wants to be kicked: descriptor offset with wrap bit, flags."""
        return self._device_event[0], self._device_event[1]

    @device_event.setter
    def device_event(self, event: tuple[int, int]) -> None:
        self._device_event[0], self._device_event[1] = event
