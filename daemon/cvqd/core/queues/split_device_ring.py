"""The device side of a split ring: indices, chains by ``next``, used elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.core.queues.chain import LONGEST_CHAIN, Chain, indirect_table
from cvqd.errors import GuestError
from cvqd.wire.split_ring import DESC_INDIRECT, DESC_NEXT, NO_NOTIFICATION, crossed

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.core.address_space import AddressSpace
    from cvqd.wire.split_ring import SplitRing


class SplitDeviceRing:
    """See ``core.queues.guest_queue`` for the terms.  ``base`` is the next available index."""

    def __init__(
        self,
        ring: SplitRing,
        memory: AddressSpace,
        fence: Callable[[], None],
        base: int,
        *,
        indirect: bool,
        event_index: bool,
    ) -> None:
        self._ring = ring
        self._memory = memory
        self._fence = fence
        self._indirect = indirect
        self._event_index = event_index
        self._next_available = base
        # vhost-user: a back-end takes the used index from the ring, not from SET_VRING_BASE
        self._next_used = self._told = ring.used_index
        # whoever served the ring before may have suppressed kicks
        ring.device_flags = 0

    @property
    def base(self) -> int:
        """Free-running index of the next entry to fetch."""
        return self._next_available

    def pop(self) -> Chain | None:
        """The next chain, None if there is none; GuestError if the ring cannot be followed."""
        ring = self._ring
        pending = (ring.available_index - self._next_available) & 0xFFFF
        if not pending:
            if not self._event_index:
                return None
            # ask for a kick at the next entry, then look again in case it has just come
            ring.available_event = self._next_available
            # full: pairs with the driver's between available_index and its load of available_event
            self._fence()
            pending = (ring.available_index - self._next_available) & 0xFFFF
            if not pending:
                return None
        if pending > ring.num:
            raise GuestError("queue.index", f"{pending} entries in a ring of {ring.num}")
        # acquire: pairs with the driver's barrier between its entries and available_index
        self._fence()
        head = ring.available_head(self._next_available)
        if head >= ring.num:
            raise GuestError("queue.head", f"descriptor {head} in a table of {ring.num}")
        self._next_available = (self._next_available + 1) & 0xFFFF
        chain = Chain(head)
        try:
            self._walk(chain)
        except GuestError as fault:
            # a traceback would keep alive every view made so far
            chain.fault = fault.with_traceback(None)
        return chain

    def push(self, chain: Chain, written: int) -> None:
        """Fill the next used element."""
        self._ring.put_used(self._next_used, chain.head, written)
        self._next_used = (self._next_used + 1) & 0xFFFF

    def publish(self) -> None:
        """Move the used index past every pushed chain."""
        # release: pairs with the driver's barrier between used_index and the elements
        self._fence()
        self._ring.used_index = self._next_used

    def call_wanted(self) -> bool:
        """Whether the driver wants to be called for what was published since this was last asked."""
        # full: pairs with the driver's between its used_event or flags and its load of used_index
        self._fence()
        old, self._told = self._told, self._next_used
        if not self._event_index:
            return not self._ring.driver_flags & NO_NOTIFICATION
        return crossed(self._ring.used_event, self._next_used, old)

    def _walk(self, chain: Chain) -> None:
        ring, memory = self._ring, self._memory
        index, most = chain.head, min(ring.num, LONGEST_CHAIN)
        for _ in range(most):
            address, length, flags, following = ring.descriptor(index)
            if flags & DESC_INDIRECT:
                if not self._indirect:
                    raise GuestError("chain.indirect", "INDIRECT_DESC was not negotiated")
                if flags & DESC_NEXT:
                    raise GuestError("chain.indirect", f"descriptor {index} is INDIRECT and has a NEXT")
                self._walk_table(chain, indirect_table(memory, address, length))
                return
            chain.add(memory, address, length, flags)
            if not flags & DESC_NEXT:
                return
            if following >= ring.num:
                raise GuestError("chain.next", f"descriptor {following} in a table of {ring.num}")
            index = following
        raise GuestError("chain.loop", f"more than {most} descriptors")

    def _walk_table(self, chain: Chain, table: list[tuple[int, int, int, int]]) -> None:
        index = 0
        for _ in table:
            address, length, flags, following = table[index]
            if flags & DESC_INDIRECT:
                raise GuestError("chain.indirect", "a table in a table")
            chain.add(self._memory, address, length, flags)
            if not flags & DESC_NEXT:
                return
            if following >= len(table):
                raise GuestError("chain.next", f"descriptor {following} in a table of {len(table)}")
            index = following
        raise GuestError("chain.loop", f"more than the {len(table)} descriptors of the table")
