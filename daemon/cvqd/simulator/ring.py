"""One ring of the device: what the driver set up, and the chains in it.

A ring is reached only through ``memory()``, the effective table of its group's
current address space.  Views of guest memory are held from a translation to the
next ``detach``; whoever changes that table calls ``detach`` before the owner of
the memory can take it away.  Errors are counted and reported here, so callers
only see good chains, bad chains or none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.core.queues.guest_queue import GuestQueue
from cvqd.errors import GuestError
from cvqd.wire.vhost_vdpa import Access

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.core.address_space import AddressSpace
    from cvqd.core.queues.chain import Chain
    from cvqd.events import EventLog
    from cvqd.simulator.statistics import Statistics
    from cvqd.wire.ring_format import RingFormat
    from cvqd.wire.split_ring import RingAddresses


class Ring:
    """State of ring ``index``; ``num`` in descriptors, ``base`` in the encoding of SET_VRING_BASE.

    ``most`` is the size until the driver sets another.  ``ring_format`` returns the format that is
    negotiated for all rings of the device by now.
    """

    def __init__(
        self,
        index: int,
        memory: Callable[[], AddressSpace],
        ring_format: Callable[[], RingFormat],
        fence: Callable[[], None],
        log: EventLog,
        statistics: Statistics,
        *,
        most: int,
    ) -> None:
        self._most = most
        self.index: Final = index
        self._memory = memory
        self._format = ring_format
        self._fence = fence
        self._log = log
        self._statistics = statistics
        self._queue: GuestQueue | None = None
        self._unpublished = False
        self._base: int | None = None
        self.num = most
        self.addresses: RingAddresses | None = None
        self.enabled = False
        #: there may be chains to serve
        self.pending = False
        #: the driver's indices made no sense; nothing is served until the ring is set up anew
        self.broken = False

    def reset(self) -> None:
        """Forget everything the driver set."""
        self._queue = None
        self._unpublished = False
        self._base = None
        self.num = self._most
        self.addresses = None
        self.enabled = False
        self.pending = False
        self.broken = False

    @property
    def base(self) -> int:
        """Where the ring continues."""
        if self._queue is not None:
            return self._queue.base
        return self._format().initial_base if self._base is None else self._base

    @base.setter
    def base(self, base: int) -> None:
        self._queue = None
        self.broken = False
        self._base = base

    def detach(self) -> None:
        """Give up every view; the next ``pop`` translates again and continues at the same place."""
        self._base = self.base
        self._queue = None

    def pop(self) -> Chain | None:
        """The next chain, good or with its ``fault`` counted; None if there is none, or no usable ring."""
        if self.broken:
            return None
        try:
            queue = self._queue or self._attach()
        except GuestError as error:
            # not broken: the table may still change, and the driver may kick again
            self._count(error)
            return None
        try:
            chain = queue.pop()
        except GuestError as error:
            self.broken = True
            self._statistics.broken_rings[self.index] += 1
            self._log.emit(
                "simulator.ring.broken", queue=self.index, reason=error.reason, detail=error.detail
            )
            return None
        if chain is not None and chain.fault is not None:
            self._count(chain.fault)
        return chain

    def complete(self, chain: Chain, written: int) -> None:
        """Give a chain back with ``written`` bytes; the driver sees it after ``publish``.

        The ring may have been detached since the chain was popped; if it cannot
        be translated any more, the chain is lost, as on a real device.
        """
        try:
            queue = self._queue or self._attach()
        except GuestError as error:
            self._count(error)
            return
        queue.push(chain, written)
        self._unpublished = True

    def publish(self) -> bool:
        """Let the driver see completed chains; whether there were any for which it wants to be called."""
        if not self._unpublished:
            return False
        self._unpublished = False
        if self._queue is None:
            return False
        self._queue.publish()
        return self._queue.call_wanted()

    def _attach(self) -> GuestQueue:
        if self.addresses is None:
            raise GuestError("ring.unset", f"ring {self.index} has no addresses")
        base = self.base
        memory, ring_format, at = self._memory(), self._format(), self.addresses
        if not ring_format.has_base(self.num, base):
            raise GuestError("ring.base", f"{base:#x} is no place in a ring of {self.num}")
        sizes = ring_format.sizes(self.num)
        # the device writes the descriptors of a packed ring, not those of a split ring; in both formats it
        # reads the second part (available ring, driver event area) and writes the third (used ring, device
        # event area)
        descriptors = Access.READ_WRITE if ring_format.packed else Access.READ
        windows = (
            memory.contiguous(at.descriptors, sizes.descriptors, descriptors),
            memory.contiguous(at.available, sizes.available, Access.READ),
            memory.contiguous(at.used, sizes.used, Access.WRITE),
        )
        self._queue = GuestQueue(
            ring_format.open(self.num, windows),
            memory,
            self._fence,
            base,
            indirect=ring_format.indirect,
            event_index=ring_format.event_index,
        )
        return self._queue

    def _count(self, error: GuestError) -> None:
        if error.reason.startswith("memory."):
            self._statistics.iotlb_faults[self.index] += 1
            event = "simulator.access.refused"
        else:
            self._statistics.malformed_chains[self.index] += 1
            event = "simulator.chain.malformed"
        self._log.emit(event, queue=self.index, reason=error.reason, detail=error.detail)
