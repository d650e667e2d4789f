"""What the daemon offers to a front-end; only a switchover can narrow the features later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cvqd.wire.vhost_user import PROTOCOL_FEATURES_SERVED
from cvqd.wire.virtio import Feature

#: Answer to GET_MAX_MEM_SLOTS, which must not shrink when a front-end connects again.
MEMORY_SLOTS: Final = 32


@dataclass(frozen=True, slots=True)
class Offer:
    """Features and limits.

    ``features`` are those that the guest may take; vhost-user's bit 30 is added here.
    ACCESS_PLATFORM must not be among them: it would turn every address into an I/O virtual one.
    ``rings`` counts all rings, including the control queue; ``ring_size`` is the largest, in descriptors.
    """

    features: int
    rings: int
    ring_size: int
    protocol_features: int = PROTOCOL_FEATURES_SERVED
    memory_slots: int = MEMORY_SLOTS

    def __post_init__(self) -> None:
        if self.features & Feature.ACCESS_PLATFORM.mask:
            raise ValueError("ACCESS_PLATFORM is never offered to a front-end")
        if not 1 <= self.rings <= 256:
            raise ValueError(f"{self.rings} rings; vhost-user can name 1 to 256")

    @property
    def word(self) -> int:
        """Answer to GET_FEATURES."""
        return self.features | Feature.PROTOCOL_FEATURES.mask
