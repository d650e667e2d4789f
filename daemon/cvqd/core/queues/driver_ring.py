"""The driver side of a virtqueue of either format: buffers offered, published and taken back.

It knows only buffers and their ids.  What they hold, how long they may take and
what follows if the device breaks the rules is up to the owner of the ring:
``core.queues.shadow_queue``, and the drivers of the test kit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cvqd.core.queues.packed_driver_ring import PackedDriverRing
from cvqd.core.queues.split_driver_ring import SplitDriverRing
from cvqd.wire.packed_ring import PackedRing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cvqd.wire.ring_format import AnyRing


class DriverRing(Protocol):
    """What the owner of a ring needs of it, whatever its format."""

    @property
    def free(self) -> int:
        """Descriptors that no buffer uses."""

    @property
    def base(self) -> int:
        """Base for SET_VRING_BASE, from which a device takes every buffer not given back so far."""

    def offer(self, parts: Sequence[tuple[int, int, int]]) -> int:
        """Describe a buffer and return its id; IndexError if too few descriptors are free.

        Each part is one descriptor: address, bytes, and 0, ``DESC_WRITE`` or ``DESC_INDIRECT``.
        """

    def publish(self) -> bool:
        """Let the device see every offered buffer; False if there was none."""

    def kick_wanted(self) -> bool:
        """Whether the device wants to be kicked for what was published since this was last asked."""

    def take(self) -> tuple[int, int] | None:
        """Id and bytes written of the next buffer given back; None if there is none, and a call is requested.

        RingError for an id that is not in flight, or an index that jumps.
        """


def driver_ring(ring: AnyRing, fence: Callable[[], None], *, event_index: bool = False) -> DriverRing:
    """The driver's side of a fresh ring in zeroed memory.

    ``fence`` orders loads with loads and stores with stores; with ``event_index``, and if
    ``kick_wanted`` is called, it must be a full barrier.
    """
    if isinstance(ring, PackedRing):
        return PackedDriverRing(ring, fence, event_index=event_index)
    return SplitDriverRing(ring, fence, event_index=event_index)
