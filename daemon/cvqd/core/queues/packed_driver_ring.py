"""The driver side of a packed ring."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from cvqd.core.queues.ring_error import RingError
from cvqd.wire.packed_ring import (
    DESC_AVAILABLE,
    DESC_USED,
    EVENT_DESCRIPTOR,
    EVENT_DISABLE,
    WRAP,
    PackedBase,
    available_flags,
    used_flags,
)
from cvqd.wire.split_ring import DESC_NEXT, crossed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cvqd.wire.packed_ring import PackedRing

_OWNERSHIP = DESC_AVAILABLE | DESC_USED


class PackedDriverRing:
    """See ``core.queues.driver_ring`` for the terms.  Ids are reused in turn, as late as possible.

    Only a buffer's id tells how many descriptors to skip when it comes back, so after an id that is not
    in flight the ring cannot be followed any more.
    """

    def __init__(self, ring: PackedRing, fence: Callable[[], None], *, event_index: bool) -> None:
        self._ring = ring
        self._fence = fence
        self._event_index = event_index
        self._ids = deque(range(ring.num))
        self._out: dict[int, int] = {}
        self._free = ring.num
        self._next = 0
        self._wrap = True
        self._used = 0
        self._used_wrap = True
        #: positions of the first descriptors, each of which publishes a buffer, and their flags
        self._firsts: list[tuple[int, int]] = []
        self._added = 0

    @property
    def free(self) -> int:
        """Descriptors that no buffer uses."""
        return self._free

    @property
    def base(self) -> int:
        """Available and used position both at the next descriptor to be taken back."""
        return PackedBase(self._used, self._used_wrap, self._used, self._used_wrap).encode()

    def offer(self, parts: Sequence[tuple[int, int, int]]) -> int:
        """Fill the next descriptors, except for the flags of the first."""
        ring = self._ring
        count = len(parts)
        if not 0 < count <= self._free:
            raise IndexError(f"a buffer of {count} parts, {self._free} descriptors are free")
        id_ = self._ids.popleft()
        for place, (address, length, own) in enumerate(parts, 1):
            flags = own | available_flags(wrap=self._wrap)
            if place < count:
                flags |= DESC_NEXT
            ring.put_body(self._next, address, length, id_)
            if place == 1:
                self._firsts.append((self._next, flags))
            else:
                ring.put_flags(self._next, flags)
            self._next += 1
            if self._next == ring.num:
                self._next = 0
                self._wrap = not self._wrap
        self._free -= count
        self._added += count
        self._out[id_] = count
        return id_

    def publish(self) -> bool:
        """Set the flags of the first descriptors, the very first last: the device sees all at once."""
        if not self._firsts:
            return False
        # release: pairs with the device's barrier between a first descriptor's flags and the buffer
        self._fence()
        while self._firsts:
            self._ring.put_flags(*self._firsts.pop())
        return True

    def kick_wanted(self) -> bool:
        """Whether the device's event area asks for a kick for what was published since the last call."""
        # full: pairs with the device's between its event area and its load of the next flags
        self._fence()
        new, old = self._next, self._next - self._added
        self._added = 0
        place, flags = self._ring.device_event
        if flags != EVENT_DESCRIPTOR or not self._event_index:
            return flags != EVENT_DISABLE
        # positions relative to the current lap: those of the lap before are negative
        event = place % WRAP
        if bool(place & WRAP) is not self._wrap:
            event -= self._ring.num
        return crossed(event, new, old)

    def take(self) -> tuple[int, int] | None:
        """Buffer id and bytes written of the next used descriptor."""
        ring = self._ring
        expected = used_flags(wrap=self._used_wrap)
        if ring.flags(self._used) & _OWNERSHIP != expected:
            if not self._event_index:
                return None
            # ask for a call at the next used descriptor, then look again in case it has just come
            ring.driver_event = (self._used | (WRAP if self._used_wrap else 0), EVENT_DESCRIPTOR)
            # full: pairs with the device's between a used descriptor's flags and its load of our event area
            self._fence()
            if ring.flags(self._used) & _OWNERSHIP != expected:
                return None
        # acquire: pairs with the device's barrier between a used descriptor's content and its flags
        self._fence()
        _, written, id_, _ = ring.descriptor(self._used)
        count = self._out.pop(id_, None)
        if count is None:
            raise RingError("used.id", f"buffer {id_} is not in flight", fatal=True)
        self._ids.append(id_)
        self._free += count
        self._used += count
        if self._used >= ring.num:
            self._used -= ring.num
            self._used_wrap = not self._used_wrap
        return id_, written
