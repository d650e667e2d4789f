"""The device side of a virtqueue: chains that a driver published, popped and given back.

The driver is untrusted and shares the memory: every index and descriptor is
copied once and the copy checked.  A *malformed chain* is still returned, with
``fault`` set and whatever was valid before it, so that it can be answered and
given back; a *broken queue* (an index that jumps, a head outside the table)
cannot be followed any further and raises.

Nothing is held back: a driver is always asked to kick for its next buffer, so
no notification is ever lost to a decision that came too late.

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

    ``memory`` translates descriptor addresses.  ``base`` is where the ring goes on, as SET_VRING_BASE
    says it; None is a ring that was never used.  ``fence`` is a barrier that orders loads with loads and
    stores with stores; with ``event_index``, and where ``call_wanted`` is asked, a full one.
    ``note`` is told of the answers that a packed ring is about to get.
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
        """Where the ring goes on, as GET_VRING_BASE says it."""
        return self._ring.base

    def pop(self) -> Chain | None:
        """Fetch the next chain; None when there is none; GuestError when the queue is broken."""
        return self._ring.pop()

    def push(self, chain: Chain, written: int) -> None:
        """Give a chain back; the driver sees it after ``publish``."""
        self._ring.push(chain, written)

    def publish(self) -> None:
        """Let the driver see every pushed chain."""
        self._ring.publish()

    def call_wanted(self) -> bool:
        """Whether the driver wants to be called for what was published since this was last asked.

        Asked by a device that holds calls back; a call that nobody wanted is legal.
        """
        return self._ring.call_wanted()
