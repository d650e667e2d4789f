"""The virtqueue format of a device's rings, split or packed, and its options.

Feature words bind all rings of a device (virtio 1.3 §6), so this is the only
place to consult when a ring is laid out, checked or opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.wire.packed_ring import INITIAL_BASE, WRAP, PackedRing, packed_sizes
from cvqd.wire.split_ring import RingAddresses, RingSizes, SplitRing, ring_sizes
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from collections.abc import Iterable

#: a live ring of either format
AnyRing = SplitRing | PackedRing

#: alignment of the three parts in bytes, virtio 1.3 §2.7 and §2.8
_SPLIT_ALIGNMENT: Final = RingAddresses(descriptors=16, available=2, used=4)
_PACKED_ALIGNMENT: Final = RingAddresses(descriptors=16, available=4, used=4)


class RingFormat(NamedTuple):
    """``packed`` or split; INDIRECT_DESC and EVENT_IDX as negotiated.

    The parts of a packed ring have the names of a split ring's, as they do in SET_VRING_ADDR:
    ``available`` is the driver's event area, ``used`` the device's.
    """

    packed: bool = False
    indirect: bool = False
    event_index: bool = False

    @classmethod
    def of(cls, features: int) -> RingFormat:
        """The format for these *negotiated* features."""
        return cls(
            packed=bool(features & Feature.RING_PACKED.mask),
            indirect=bool(features & Feature.INDIRECT_DESC.mask),
            event_index=bool(features & Feature.EVENT_IDX.mask),
        )

    @property
    def alignment(self) -> RingAddresses:
        """Required alignment of each part, in bytes."""
        return _PACKED_ALIGNMENT if self.packed else _SPLIT_ALIGNMENT

    @property
    def initial_base(self) -> int:
        """The base of a ring that was never used."""
        return INITIAL_BASE if self.packed else 0

    def sizes(self, num: int) -> RingSizes:
        """Bytes of each part."""
        return packed_sizes(num) if self.packed else ring_sizes(num)

    def open(self, num: int, windows: Iterable[memoryview]) -> AnyRing:
        """The live ring in three windows of ``sizes(num)`` bytes."""
        return PackedRing(num, *windows) if self.packed else SplitRing(num, *windows)

    def has_base(self, num: int, base: int) -> bool:
        """Whether ``base`` is valid for a ring of ``num`` descriptors."""
        if not self.packed:
            return 0 <= base <= 0xFFFF
        return 0 <= base < 1 << 32 and base % WRAP < num and (base >> 16) % WRAP < num
