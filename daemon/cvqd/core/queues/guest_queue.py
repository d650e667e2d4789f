"""The device side of a virtqueue: chains that a driver published, popped and given back.

The driver is untrusted and shares the memory: every index and descriptor is
copied once and the copy checked.  A *malformed chain* is still returned, with
``fault`` set and the segments that were valid up to there, so that it can be
answered and given back.  A *broken queue* (an index that jumps, a head outside
the table) cannot be followed any further and raises.

Kicks are never suppressed: the driver is always asked to kick for its next
buffer, so there is no race in which one could be lost.

The relay uses it for the guest's control queue, the simulator for every ring
it owns.  It knows no command and no file descriptor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.core.queues.chain import Chain
from cvqd.core.queues.packed_device_ring import PackedDeviceRing
from cvqd.core.queues.split_device_ring import SplitDeviceRing
from cvqd.wire.packed_ring import INITIAL_BASE, PackedRing

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.core.address_space import AddressSpace
    from cvqd.core.queues.packed_answers import PackedAnswers
    from cvqd.wire.ring_format import AnyRing

__all__ = ["Chain", "GuestQueue"]


class GuestQueue:
    """Pops chains in order and gives them back in the order they are pushed.

    ``memory`` translates descriptor addresses.  ``base`` is where the ring continues, in the encoding of
    SET_VRING_BASE; None means a ring that was never used.  ``fence`` orders loads with loads and stores
    with stores; with ``event_index``, and if ``call_wanted`` is called, it must be a full barrier.
    ``note`` is called with the answers that are about to be written to a packed ring.
    """

    def __init__(
        self,
        ring: AnyRing,
        memory: AddressSpace,
        fence: Callable[[], None],
        base: int | None = None,
        *,
        indirect: bool = False,
        event_index: bool = False,
        note: Callable[[PackedAnswers], None] | None = None,
    ) -> None:
        self._ring: SplitDeviceRing | PackedDeviceRing
        if isinstance(ring, PackedRing):
            start = INITIAL_BASE if base is None else base
            self._ring = PackedDeviceRing(
                ring, memory, fence, start, indirect=indirect, event_index=event_index, note=note
            )
        else:
            self._ring = SplitDeviceRing(
                ring, memory, fence, base or 0, indirect=indirect, event_index=event_index
            )

    @property
    def base(self) -> int:
        """Where the ring continues, in the encoding of GET_VRING_BASE."""
        return self._ring.base

    def pop(self) -> Chain | None:
        """Fetch the next chain; None if there is none, GuestError if the queue is broken."""
        return self._ring.pop()

    def push(self, chain: Chain, written: int) -> None:
        """Give a chain back; the driver sees it after ``publish``."""
        self._ring.push(chain, written)

    def publish(self) -> None:
        """Let the driver see every pushed chain."""
        self._ring.publish()

    def call_wanted(self) -> bool:
        """Whether the driver wants to be called for what was published since this was last asked.

        Only a device that suppresses calls has to ask; an unwanted call is legal.
        """
        return self._ring.call_wanted()
