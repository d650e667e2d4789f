"""The command that switches receive offloads on and off, virtio 1.3 §5.1.6.5.8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self

from cvqd.wire.control_frame import ACK, U64, Class, expect
from cvqd.wire.virtio import Feature, mask_of

#: the offloads that can be switched: bit numbers of ``offloads`` are those of the features.
#: UDP tunnels (bits 46 and 47 for features 65 and 66) are beyond a 64-bit feature word.
GUEST_OFFLOADS: Final = mask_of(
    Feature.GUEST_CSUM,
    Feature.GUEST_TSO4,
    Feature.GUEST_TSO6,
    Feature.GUEST_ECN,
    Feature.GUEST_UFO,
    Feature.GUEST_USO4,
    Feature.GUEST_USO6,
)


@dataclass(frozen=True, slots=True)
class GuestOffloadsSet:
    """Enable exactly these receive offloads."""

    offloads: int

    name: ClassVar[str] = "guest_offloads.set"
    feature: ClassVar[Feature] = Feature.CTRL_GUEST_OFFLOADS
    answer_length: ClassVar[int] = ACK

    def encode(self) -> bytes:
        """Header and a 64-bit mask."""
        return bytes((Class.GUEST_OFFLOADS, 0)) + U64.pack(self.offloads)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        expect(data, 8, cls.name)
        return cls(U64.unpack_from(data, 2)[0])
