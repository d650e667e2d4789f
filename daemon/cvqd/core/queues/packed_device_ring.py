"""The device side of a packed ring: positions, wrap counters, chains of adjacent descriptors.

A packed ring has no index by which to check a driver's arithmetic.  Beyond a
malformed chain two things can go wrong: a chain that does not end within the
ring, or more descriptors in flight than the ring has.  Then there is no telling
where the next chain begins, and the ring is broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.core.queues.chain import LONGEST_CHAIN, Chain, indirect_table
from cvqd.core.queues.packed_answers import Answered, PackedAnswers
from cvqd.errors import GuestError
from cvqd.wire.packed_ring import (
    DESC_AVAILABLE,
    DESC_USED,
    EVENT_DESCRIPTOR,
    EVENT_DISABLE,
    EVENT_ENABLE,
    WRAP,
    PackedBase,
    available_flags,
    used_flags,
)
from cvqd.wire.split_ring import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, crossed

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.core.address_space import AddressSpace
    from cvqd.wire.packed_ring import PackedDescriptor, PackedRing

_OWNERSHIP = DESC_AVAILABLE | DESC_USED


class PackedDeviceRing:
    """See ``core.queues.guest_queue`` for the terms.  ``base`` is a ``PackedBase`` as a number."""

    def __init__(
        self,
        ring: PackedRing,
        memory: AddressSpace,
        fence: Callable[[], None],
        base: int,
        *,
        indirect: bool,
        event_index: bool,
        note: Callable[[PackedAnswers], None] | None = None,
    ) -> None:
        self._ring = ring
        self._memory = memory
        self._fence = fence
        self._indirect = indirect
        self._event_index = event_index
        self._available, self._available_wrap, self._used, self._used_wrap = PackedBase.decode(base)
        self._told = self._used
        #: position, buffer id, bytes written, flags, descriptors of each answer that is not published
        self._pushed: list[tuple[int, int, int, int, int]] = []
        self._note = note
        # ask for a kick for every buffer: this needs neither an event index nor a second look at the ring
        ring.device_event = (0, EVENT_ENABLE)

    @property
    def base(self) -> int:
        """Where a successor continues."""
        return PackedBase(self._available, self._available_wrap, self._used, self._used_wrap).encode()

    def pop(self) -> Chain | None:
        """The next chain, None if there is none; GuestError if the ring cannot be followed."""
        ring = self._ring
        if ring.flags(self._available) & _OWNERSHIP != available_flags(wrap=self._available_wrap):
            return None
        # acquire: pairs with the driver's barrier between a buffer and its first descriptor's flags
        self._fence()
        found = self._buffer()
        outstanding = self._available - self._used
        if self._available_wrap is not self._used_wrap:
            outstanding += ring.num
        if outstanding + len(found) > ring.num:
            raise GuestError("queue.index", f"{outstanding + len(found)} descriptors in a ring of {ring.num}")
        self._available += len(found)
        if self._available >= ring.num:
            self._available -= ring.num
            self._available_wrap = not self._available_wrap
        chain = Chain(found[-1].id, len(found))
        try:
            self._fill(chain, found)
        except GuestError as fault:
            # a traceback would keep alive every view made so far
            chain.fault = fault.with_traceback(None)
        return chain

    def push(self, chain: Chain, written: int) -> None:
        """Prepare the next used descriptor; ``publish`` writes it, over a descriptor in use until then."""
        ring = self._ring
        flags = used_flags(wrap=self._used_wrap) | (DESC_WRITE if written else 0)
        self._pushed.append((self._used, chain.head, written, flags, chain.descriptors))
        self._used += chain.descriptors
        if self._used >= ring.num:
            self._used -= ring.num
            self._used_wrap = not self._used_wrap

    def publish(self) -> None:
        """Fill the used descriptors, then set their flags, the first last: the driver sees all at once."""
        ring = self._ring
        if self._note is not None and self._pushed:
            place, _, _, flags, _ = self._pushed[0]
            answered = tuple(
                Answered(ring.descriptor(at), count, id_, written)
                for at, id_, written, _, count in self._pushed
            )
            self._note(PackedAnswers(ring.num, place, bool(flags & DESC_USED), answered))
        for place, id_, written, _, _ in self._pushed:
            ring.put_used(place, id_, written)
        # release: pairs with the driver's barrier between a used descriptor's flags and its content
        self._fence()
        while self._pushed:
            place, _, _, flags, _ = self._pushed.pop()
            ring.put_flags(place, flags)

    def call_wanted(self) -> bool:
        """Whether the driver wants to be called for what was published since this was last asked."""
        # full: pairs with the driver's between its event area and its load of the next flags
        self._fence()
        num = self._ring.num
        old, self._told = self._told, self._used
        place, flags = self._ring.driver_event
        if flags != EVENT_DESCRIPTOR or not self._event_index:
            return flags != EVENT_DISABLE
        # positions relative to the current lap: those of the lap before are negative
        event = place % WRAP
        if bool(place & WRAP) is not self._used_wrap:
            event -= num
        if old >= self._used:
            old -= num
        return crossed(event, self._used, old)

    def _buffer(self) -> list[PackedDescriptor]:
        """Copies of the descriptors of the buffer at the next available position."""
        ring = self._ring
        position = self._available
        found: list[PackedDescriptor] = []
        for _ in range(ring.num):
            found.append(ring.descriptor(position))
            if not found[-1].flags & DESC_NEXT:
                return found
            position = position + 1 if position + 1 < ring.num else 0
        raise GuestError("queue.chain", f"no end within the {ring.num} descriptors of the ring")

    def _fill(self, chain: Chain, found: list[PackedDescriptor]) -> None:
        memory = self._memory
        if len(found) > LONGEST_CHAIN:
            raise GuestError("chain.long", f"{len(found)} descriptors")
        for address, length, _, flags in found:
            if not flags & DESC_INDIRECT:
                chain.add(memory, address, length, flags)
                continue
            if not self._indirect:
                raise GuestError("chain.indirect", "INDIRECT_DESC was not negotiated")
            if len(found) > 1:
                # virtio 1.3 §2.8.17: an indirect descriptor stands alone
                raise GuestError("chain.indirect", "an indirect descriptor in a chain")
            for entry_address, entry_length, _, entry_flags in indirect_table(memory, address, length):
                if entry_flags & DESC_INDIRECT:
                    raise GuestError("chain.indirect", "a table in a table")
                # of the other flags only WRITE means something here, virtio 1.3 §2.8.7
                chain.add(memory, entry_address, entry_length, entry_flags)
