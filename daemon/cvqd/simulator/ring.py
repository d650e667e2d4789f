"""One ring of the device: what the driver set, and the chains that follow from it.

A ring is reached only through ``memory()``, the effective table of its group's
current address space.  Views of guest memory are held between a translation
and the next ``detach``; whoever changes that table calls ``detach`` before the
owner of the memory can take it away.  What went wrong is counted and reported
here, so that those who serve rings only see good chains, bad chains and none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.core.guest_queue import GuestQueue
from cvqd.errors import GuestError
from cvqd.wire.split_ring import SplitRing, ring_sizes
from cvqd.wire.vhost_vdpa import Access

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.core.address_space import AddressSpace
    from cvqd.core.chain import Chain
    from cvqd.events import EventLog
    from cvqd.simulator.statistics import Statistics
    from cvqd.wire.split_ring import RingAddresses

#: largest ring, ``VDPASIM_QUEUE_MAX`` of ``drivers/vdpa/vdpa_sim/vdpa_sim.c``
MAX_RING: Final = 256


class Ring:
    """State of ring ``index``; descriptors for ``num``, free-running 16-bit indices for ``base``."""

    def __init__(
        self,
        index: int,
        memory: Callable[[], AddressSpace],
        fence: Callable[[], None],
        log: EventLog,
        statistics: Statistics,
    ) -> None:
        self.index: Final = index
        self._memory = memory
        self._fence = fence
        self._log = log
        self._statistics = statistics
        self._queue: GuestQueue | None = None
        self._unpublished = False
        self._base = 0
        self.num = MAX_RING
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
        self._base = 0
        self.num = MAX_RING
        self.addresses = None
        self.enabled = False
        self.pending = False
        self.broken = False

    @property
    def base(self) -> int:
        """Index of the next available entry to fetch."""
        return self._base if self._queue is None else self._queue.base

    @base.setter
    def base(self, base: int) -> None:
        self._queue = None
        self.broken = False
        self._base = base

    def detach(self) -> None:
        """Give up every view; the next pop translates anew and goes on at the same index."""
        self._base = self.base
        self._queue = None

    def pop(self) -> Chain | None:
        """The next chain, good or with its ``fault`` counted; None where there is none or no ring."""
        if self.broken:
            return None
        try:
            queue = self._queue or self._attach()
        except GuestError as error:
            # the table may be changed and the driver may kick again, so the ring is not broken
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
        be reached any more the chain is lost, as it would be on a real device.
        """
        try:
            queue = self._queue or self._attach()
        except GuestError as error:
            self._count(error)
            return
        queue.push(chain, written)
        self._unpublished = True

    def publish(self) -> bool:
        """Let the driver see completed chains; whether there were any."""
        if not self._unpublished:
            return False
        self._unpublished = False
        if self._queue is None:
            return False
        self._queue.publish()
        return True

    def _attach(self) -> GuestQueue:
        if self.addresses is None:
            raise GuestError("ring.unset", f"ring {self.index} has no addresses")
        memory, sizes, at = self._memory(), ring_sizes(self.num), self.addresses
        ring = SplitRing(
            self.num,
            memory.contiguous(at.descriptors, sizes.descriptors, Access.READ),
            memory.contiguous(at.available, sizes.available, Access.READ),
            memory.contiguous(at.used, sizes.used, Access.WRITE),
        )
        self._queue = GuestQueue(ring, memory, self._fence, self._base)
        return self._queue

    def _count(self, error: GuestError) -> None:
        if error.reason.startswith("memory."):
            self._statistics.iotlb_faults[self.index] += 1
            event = "simulator.access.refused"
        else:
            self._statistics.malformed_chains[self.index] += 1
            event = "simulator.chain.malformed"
        self._log.emit(event, queue=self.index, reason=error.reason, detail=error.detail)
