"""The driver side of a split ring."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from cvqd.core.queues.ring_error import RingError
from cvqd.wire.split_ring import DESC_NEXT, NO_NOTIFICATION, Descriptor, crossed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cvqd.wire.split_ring import SplitRing


class SplitDriverRing:
    """See ``core.queues.driver_ring`` for the terms.  A buffer's id is its first descriptor's index.

    Descriptors are reused in turn, as late as possible: an id that a device gives back twice then
    names a buffer that is not in flight.
    """

    def __init__(self, ring: SplitRing, fence: Callable[[], None], *, event_index: bool) -> None:
        self._ring = ring
        self._fence = fence
        self._event_index = event_index
        self._free = deque(range(ring.num))
        self._out: dict[int, list[int]] = {}
        self._next_available = 0
        self._published = 0
        self._told = 0
        self._next_used = 0

    @property
    def free(self) -> int:
        """Descriptors that no buffer uses."""
        return len(self._free)

    @property
    def base(self) -> int:
        """Free-running index of the next element to be taken back."""
        return self._next_used

    def offer(self, parts: Sequence[tuple[int, int, int]]) -> int:
        """Fill a descriptor for each part and the next slot of the available ring."""
        if not 0 < len(parts) <= len(self._free):
            raise IndexError(f"a buffer of {len(parts)} parts, {len(self._free)} descriptors are free")
        chain = [self._free.popleft() for _ in parts]
        last = chain[-1]
        for place, (address, length, flags) in enumerate(parts):
            slot = chain[place]
            more = slot != last
            self._ring.put_descriptor(
                slot,
                Descriptor(
                    address, length, flags | DESC_NEXT if more else flags, chain[place + 1] if more else 0
                ),
            )
        head = chain[0]
        self._out[head] = chain
        self._ring.put_available(self._next_available, head)
        self._next_available = (self._next_available + 1) & 0xFFFF
        return head

    def publish(self) -> bool:
        """Move the available index past every offered buffer."""
        if self._published == self._next_available:
            return False
        # release: pairs with the device's barrier between available_index and the entries
        self._fence()
        self._ring.available_index = self._published = self._next_available
        return True

    def kick_wanted(self) -> bool:
        """Whether available_event was passed or, without EVENT_IDX, kicks are not suppressed."""
        # full: pairs with the device's between its available_event or flags and its load of available_index
        self._fence()
        old, self._told = self._told, self._published
        if not self._event_index:
            return not self._ring.device_flags & NO_NOTIFICATION
        return crossed(self._ring.available_event, self._published, old)

    def take(self) -> tuple[int, int] | None:
        """Head and bytes written of the next used element."""
        ring = self._ring
        pending = (ring.used_index - self._next_used) & 0xFFFF
        if not pending:
            if not self._event_index:
                return None
            # ask for a call at the next element, then look again in case it has just come
            ring.used_event = self._next_used
            # full: pairs with the device's between used_index and its load of used_event
            self._fence()
            pending = (ring.used_index - self._next_used) & 0xFFFF
            if not pending:
                return None
        if pending > ring.num:
            raise RingError("used.index", f"{pending} elements in a ring of {ring.num}", fatal=True)
        # acquire: pairs with the device's barrier between its elements and used_index
        self._fence()
        head, written = ring.used_element(self._next_used)
        self._next_used = (self._next_used + 1) & 0xFFFF
        chain = self._out.pop(head, None)
        if chain is None:
            raise RingError("used.id", f"descriptor {head} is not in flight", fatal=False)
        self._free += chain
        return head, written
