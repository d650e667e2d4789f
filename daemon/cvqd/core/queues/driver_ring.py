"""The driver side of a virtqueue of either format: buffers offered, published and taken back.

Buffers and their ids are all it knows.  What they hold, how long they may take
and what a device's breach of the rules leads to is for whoever owns the ring:
``core.shadow_queue``, and the drivers of the test kit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from cvqd.core.queues.packed_driver_ring import PackedDriverRing
from cvqd.core.queues.split_driver_ring import SplitDriverRing
from cvqd.wire.packed_ring import PackedRing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cvqd.wire.ring_format import AnyRing


class Part(NamedTuple):
    """One descriptor's worth of a buffer: address, bytes, and 0, ``DESC_WRITE`` or ``DESC_INDIRECT``."""

    address: int
    length: int
    flags: int = 0


class DriverRing(Protocol):
    """``free`` is the number of descriptors that can be offered, ``base`` where a device begins now."""

    @property
    def free(self) -> int:
        """Descriptors that no buffer uses."""

    @property
    def base(self) -> int:
        """What the device is told by SET_VRING_BASE, if it has taken nothing that was not given back."""

    def offer(self, parts: Sequence[tuple[int, int, int]]) -> int:
        """Describe a buffer (see ``Part``); its id.  IndexError when too few descriptors are free."""

    def publish(self) -> bool:
        """Let the device see every offered buffer; whether there was one."""

    def kick_wanted(self) -> bool:
        """Whether the device wants to be kicked for what was published since this was last asked."""

    def take(self) -> tuple[int, int] | None:
        """Id and bytes written of the next buffer given back; None when there is none, which asks for a call.

        ``RingError`` for an id that is not out, or an index that jumps.
        """


def driver_ring(ring: AnyRing, fence: Callable[[], None], *, event_index: bool = False) -> DriverRing:
    """The driver's side of a ring that begins anew, in zeroed memory.

    ``fence`` orders loads with loads and stores with stores; with ``event_index``, and where
    ``kick_wanted`` is asked, it is a full barrier.
    """
    if isinstance(ring, PackedRing):
        return PackedDriverRing(ring, fence, event_index=event_index)
    return SplitDriverRing(ring, fence, event_index=event_index)
