"""The device side of a split virtqueue: chains that a driver published, popped and given back.

The driver is untrusted and shares the memory: every index and descriptor is
copied once and the copy checked.  A *malformed chain* is still returned, with
``fault`` set and whatever was valid before it, so that it can be answered and
given back; a *broken queue* (an index that jumps, a head outside the table)
cannot be followed any further and raises.

The relay uses it for the guest's control queue, the simulator for every ring
it owns.  It knows no command and no file descriptor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.errors import GuestError
from cvqd.wire.split_ring import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, SplitRing
from cvqd.wire.vhost_vdpa import Access

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.core.address_space import AddressSpace


class Chain:
    """One popped descriptor chain: readable segments, then writable ones."""

    __slots__ = ("fault", "head", "readable", "writable")

    def __init__(self, head: int) -> None:
        self.head = head
        self.readable: list[memoryview] = []
        self.writable: list[memoryview] = []
        self.fault: GuestError | None = None

    def release(self) -> None:
        """Let go of the memory: who remembers the chain must not keep a guest's memory mapped."""
        self.readable.clear()
        self.writable.clear()

    @property
    def readable_length(self) -> int:
        """Bytes the driver wants read."""
        return sum(map(len, self.readable))

    @property
    def writable_length(self) -> int:
        """Bytes the driver lets us write."""
        return sum(map(len, self.writable))

    def read(self, limit: int) -> bytes:
        """Copy the readable bytes, at most ``limit`` of them, once."""
        parts: list[memoryview] = []
        for segment in self.readable:
            parts.append(segment[:limit])
            limit -= len(parts[-1])
            if not limit:
                break
        return b"".join(parts)

    def write(self, data: bytes) -> int:
        """Write to the beginning of the writable part; the number of bytes that found room."""
        written = 0
        for segment in self.writable:
            part = data[written : written + len(segment)]
            segment[: len(part)] = part
            written += len(part)
            if written == len(data):
                break
        return written


class GuestQueue:
    """Pops chains in order and gives them back in the order they are pushed.

    ``memory`` translates descriptor addresses.  ``fence`` is a full memory
    barrier.  The used index continues from the one in memory, as vhost-user
    asks of a back-end that takes a ring over.
    """

    def __init__(
        self, ring: SplitRing, memory: AddressSpace, fence: Callable[[], None], next_available: int = 0
    ) -> None:
        self._ring = ring
        self._memory = memory
        self._fence = fence
        #: free-running index of the next entry to fetch
        self.next_available = next_available
        self._next_used = ring.used_index

    def pop(self) -> Chain | None:
        """Fetch the next chain; None when there is none; GuestError when the queue is broken."""
        ring = self._ring
        pending = (ring.available_index - self.next_available) & 0xFFFF
        if not pending:
            return None
        if pending > ring.num:
            raise GuestError("queue.index", f"{pending} entries in a ring of {ring.num}")
        # acquire: pairs with the driver's barrier between its entries and available_index
        self._fence()
        head = ring.available_head(self.next_available)
        if head >= ring.num:
            raise GuestError("queue.head", f"descriptor {head} in a table of {ring.num}")
        self.next_available = (self.next_available + 1) & 0xFFFF
        chain = Chain(head)
        try:
            self._walk(chain)
        except GuestError as fault:
            # a traceback would hold every view that was found on the way
            chain.fault = fault.with_traceback(None)
        return chain

    def push(self, chain: Chain, written: int) -> None:
        """Give a chain back; the driver sees it after ``publish``."""
        self._ring.put_used(self._next_used, chain.head, written)
        self._next_used = (self._next_used + 1) & 0xFFFF

    def publish(self) -> None:
        """Let the driver see every pushed chain."""
        # release: pairs with the driver's barrier between used_index and the elements
        self._fence()
        self._ring.used_index = self._next_used

    def _walk(self, chain: Chain) -> None:
        ring, memory = self._ring, self._memory
        index = chain.head
        for _ in range(ring.num):
            address, length, flags, following = ring.descriptor(index)
            if flags & DESC_INDIRECT:
                raise GuestError("chain.indirect", "INDIRECT_DESC was not negotiated")
            if not length:
                raise GuestError("chain.empty_segment", f"descriptor {index} has no bytes")
            if flags & DESC_WRITE:
                chain.writable += memory.slices(address, length, Access.WRITE)
            elif chain.writable:
                raise GuestError("chain.order", f"descriptor {index} is readable behind a writable one")
            else:
                chain.readable += memory.slices(address, length, Access.READ)
            if not flags & DESC_NEXT:
                return
            if following >= ring.num:
                raise GuestError("chain.next", f"descriptor {following} in a table of {ring.num}")
            index = following
        raise GuestError("chain.loop", f"more than {ring.num} descriptors")
