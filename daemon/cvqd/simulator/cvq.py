"""The device's control queue: chains to commands, acks back to chains, with planned faults in between.

Commands are executed in the order in which they were published; only answers
can be late.  Every chain that is not lost to a fault is given back, with ERR if
the command could not even be read.  The caller passes the time (seconds of any
clock).
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.simulator.spec import FaultAction
from cvqd.wire.net_control import ERR, OK

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.core.queues.chain import Chain
    from cvqd.events import EventLog
    from cvqd.simulator.control import Control
    from cvqd.simulator.faults import FaultPlan
    from cvqd.simulator.ring import Ring
    from cvqd.simulator.statistics import Statistics

#: bytes; room for more than ten thousand table entries, but a limit to what a driver can make us copy
MAX_REQUEST: Final = 64 * 1024

#: an answer without a result
REFUSED: Final = bytes((ERR,))

#: commands served in one turn
BUDGET: Final = 64


class _Late(NamedTuple):
    due: float
    order: int
    ring: Ring
    chain: Chain
    answer: bytes


class ControlQueue:
    """Serves whichever ring is the control queue after negotiation."""

    def __init__(
        self,
        control: Control,
        faults: FaultPlan,
        log: EventLog,
        statistics: Statistics,
        fail: Callable[[], None],
    ) -> None:
        self._control = control
        self._faults = faults
        self._log = log
        self._statistics = statistics
        self._fail = fail
        self._failed = False
        self._late: list[_Late] = []
        self._order = 0

    @property
    def next_due(self) -> float | None:
        """When the next late answer is due."""
        return self._late[0].due if self._late else None

    def reset(self) -> None:
        """Drop late answers."""
        self._late.clear()
        self._failed = False

    def detach(self, ring: Ring) -> None:
        """Give up every view had through ``ring``: its late answers can no longer write their ack byte."""
        for late in self._late:
            if late.ring is ring:
                late.chain.release()

    def answer_late(self, now: float) -> set[Ring]:
        """Give the answers that are due; return the rings that have something to publish."""
        touched: set[Ring] = set()
        while self._late and self._late[0].due <= now:
            late = heapq.heappop(self._late)
            # a ring that has been disabled meanwhile must not be touched
            if late.ring.enabled:
                self._answer(late.ring, late.chain, late.answer)
                touched.add(late.ring)
        return touched

    def serve(self, ring: Ring, now: float) -> bool:
        """Execute up to ``BUDGET`` commands; whether there may be more."""
        for _ in range(BUDGET):
            chain = ring.pop()
            if chain is None:
                return False
            self._serve(ring, chain, now)
            if self._failed:
                return False
        return True

    def _serve(self, ring: Ring, chain: Chain, now: float) -> None:
        self._statistics.cvq_requests += 1
        request = chain.read(MAX_REQUEST)
        if chain.fault or not chain.writable or chain.readable_length > MAX_REQUEST:
            self._answer(ring, chain, REFUSED)
            return
        # the name is needed only to match planned faults
        name = self._control.name(request) if self._faults else ""
        fault = self._faults.take(name)
        if fault is None:
            self._answer(ring, chain, self._control.answer(request))
            return
        self._statistics.injected_faults[fault.action.value] += 1
        self._log.emit("simulator.fault.injected", command=name, action=fault.action.value)
        match fault.action:
            case FaultAction.ERR:
                self._answer(ring, chain, REFUSED)
            case FaultAction.DROP:
                self._statistics.cvq_errors += 1
            case FaultAction.DELAY:
                self._order += 1
                answer = self._control.answer(request)
                heapq.heappush(self._late, _Late(now + fault.delay, self._order, ring, chain, answer))
            case FaultAction.TWICE:
                self._answer(ring, chain, self._control.answer(request))
                ring.complete(chain, 1)
            case FaultAction.WRONG_ID:
                self._statistics.cvq_errors += 1
                # the next index, or one outside the table if the ring has a single descriptor
                chain.head = (chain.head + 1) % ring.num if ring.num > 1 else 1
                ring.complete(chain, 1)
            case FaultAction.ZERO_LENGTH:
                self._statistics.cvq_errors += 1
                ring.complete(chain, 0)
            case FaultAction.NEEDS_RESET:
                self._statistics.cvq_errors += 1
                self._failed = True
                self._fail()

    def _answer(self, ring: Ring, chain: Chain, answer: bytes) -> None:
        if answer[0] == OK:
            self._statistics.cvq_successes += 1
        else:
            self._statistics.cvq_errors += 1
        # the used length is the number of bytes written, virtio 1.3 §2.7.8: 0 if none is writable
        ring.complete(chain, chain.write(answer))
