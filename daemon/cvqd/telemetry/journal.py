"""The outcome of each command: counted, remembered for ``status``, logged.

The relay notes steps while the guest waits and calls ``tell`` when it no
longer does, so that no log line, digest or name is made between a kick and its
answer; a note carries the time of the step itself.  A guest that kicks again at
once is served first, unless too many notes wait (``behind``).
"""

from __future__ import annotations

from collections import Counter, deque
from time import monotonic_ns, time_ns
from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.host.feed import Feed
from cvqd.telemetry.histogram import Histogram
from cvqd.telemetry.traced import SNAP, Traced
from cvqd.wire.net_control import ERR, NAMES, OK, Command, MacTableSet, name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.core.queues.chain import Chain
    from cvqd.core.tracked import TrackedState
    from cvqd.errors import GuestError
    from cvqd.events import EventLog

RECENT: Final = 16
#: notes: two for each line that a guest may cause in a burst (``host.log_limit``)
BACKLOG: Final = 4096
#: bytes of the noted commands, once per note; decoded tables take ten times as much memory
BACKLOG_BYTES: Final = 8 << 20


class Pending:
    """One popped command on its way to an answer; ``deadline`` is on trio's clock, ``…_ns`` are monotonic."""

    __slots__ = (
        "ack",
        "answered_ns",
        "chain",
        "command",
        "data",
        "deadline",
        "expired",
        "id",
        "received_ns",
        "refusal",
        "result",
        "state",
        "widens",
    )

    def __init__(self, command_id: int, chain: Chain, data: bytes, deadline: float) -> None:
        self.id = command_id
        self.chain = chain
        self.data = data
        self.deadline = deadline
        self.received_ns = monotonic_ns()
        self.answered_ns = 0
        #: the decoded command; None if the bytes are none
        self.command: Command | None = None
        #: status byte for the guest, None while there is none
        self.ack: int | None = None
        #: what the device returned besides its status byte
        self.result = b""
        self.refusal: GuestError | None = None
        self.expired = False
        #: the state this command led to, if it changed it
        self.state: TrackedState | None = None
        #: True if the device receives everything because it refused this table, False if it no longer has to
        self.widens: bool | None = None

    @property
    def name(self) -> str:
        """``class.command``, as far as the bytes tell."""
        if self.command is not None:
            return self.command.name
        return name_of(self.data) if len(self.data) >= 2 else "none"

    @property
    def counted_as(self) -> str:
        """The name, or ``unknown``: a guest can make up 65 536 names, and each would be a counter."""
        return self.name if self.name in NAMES else "unknown"

    def refuse(self, refusal: GuestError) -> None:
        """Answer ERR without asking the device."""
        # drop the traceback: it would keep its stack frames alive
        self.refusal = refusal.with_traceback(None)
        self.ack = ERR

    def expire(self) -> None:
        """Answer ERR because the deadline passed."""
        self.expired = True
        self.ack = ERR


class Remembered(NamedTuple):
    """What ``status`` shows of a command; ``reason`` is that of a refusal, else empty."""

    command_id: int
    name: str
    outcome: str
    elapsed_us: int
    reason: str


class Journal:
    """Counters and latest commands of one instance; the counters only grow.

    ``answers`` counts by command and outcome, ``refusals`` by reason.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._notes: deque[tuple[str, int, Pending]] = deque()
        self._noted_bytes = 0
        self.answers: Counter[tuple[str, str]] = Counter()
        self.refusals: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        #: of every command, from the pop to the answer
        self.latency = Histogram()
        #: of every switchover and dry move: how long no device served the data queues
        self.blackouts = Histogram()
        self.recent: deque[Remembered] = deque(maxlen=RECENT)
        #: every command with its bytes, for ``cvqd trace``
        self.trace = Feed()

    def received(self, command: Pending) -> None:
        """Note a popped command."""
        if self._log.enabled("cvq.command.received"):
            self._note("cvq.command.received", command.received_ns, command)

    def forwarded(self, command: Pending) -> None:
        """Note a command that was sent to the device."""
        if self._log.enabled("cvq.command.forwarded"):
            self._note("cvq.command.forwarded", monotonic_ns(), command)

    def answered(self, command: Pending) -> None:
        """Note that the guest has its answer."""
        command.answered_ns = monotonic_ns()
        if command.refusal is not None:
            outcome = "cvq.command.refused" if not command.chain.fault else "cvq.chain.malformed"
        else:
            outcome = "cvq.command.expired" if command.expired else "cvq.command.acked"
        self._note(outcome, command.answered_ns, command)
        if command.widens is not None and command.ack == OK:
            change = "cvq.table.widened" if command.widens else "cvq.table.narrowed"
            self._note(change, command.answered_ns, command)
        if command.state is not None:
            self._note("state.changed", command.answered_ns, command)

    def late(self, command: Pending) -> None:
        """Note the answer to a command that had expired."""
        now = monotonic_ns()
        self._note("cvq.command.late", now, command)
        if command.state is not None:
            self._note("state.changed", now, command)

    def fault(self, reason: str, detail: str) -> None:
        """Report a breach of the virtqueue protocol by the device."""
        self.counts["device_faults"] += 1
        self._log.emit("device.fault", reason=reason, detail=detail)

    def broken(self, error: GuestError) -> None:
        """Report that the guest's queue is broken and not served any more."""
        self.counts["queue_broken"] += 1
        self._log.emit("cvq.broken", reason=error.reason, detail=error.detail)

    @property
    def behind(self) -> bool:
        """Whether so many notes wait that the guest has to wait for some to be written."""
        return len(self._notes) >= BACKLOG or self._noted_bytes >= BACKLOG_BYTES

    def tell(self, interrupted: Callable[[], bool] | None = None) -> None:
        """Count and log the notes, oldest first; all of them unless ``interrupted`` (asked after each)."""
        while self._notes:
            self._tell(*self._notes.popleft())
            if interrupted is not None and not self.behind and interrupted():
                break

    def _note(self, event: str, moment: int, command: Pending) -> None:
        self._notes.append((event, moment, command))
        self._noted_bytes += len(command.data)

    def _tell(self, event: str, moment: int, command: Pending) -> None:
        self._noted_bytes -= len(command.data)
        emit, refusal = self._log.emit, command.refusal
        elapsed_us = (moment - command.received_ns) // 1000
        match event:
            case "cvq.command.received":
                emit(
                    "cvq.command.received",
                    mono_ns=moment,
                    command_id=command.id,
                    command=command.name,
                    bytes=len(command.data),
                )
            case "cvq.command.forwarded":
                emit("cvq.command.forwarded", mono_ns=moment, command_id=command.id, command=command.name)
            case "cvq.command.acked" | "cvq.command.late":
                late = event == "cvq.command.late"
                self._count(command, "late" if late else "ok" if command.ack == OK else "err", elapsed_us)
                emit(
                    event,
                    mono_ns=moment,
                    command_id=command.id,
                    command=command.name,
                    ack=command.ack,
                    elapsed_us=elapsed_us,
                )
            case "cvq.command.expired":
                self._count(command, "expired", elapsed_us)
                emit(
                    "cvq.command.expired",
                    mono_ns=moment,
                    command_id=command.id,
                    command=command.name,
                    elapsed_us=elapsed_us,
                )
            case "cvq.command.refused" if refusal is not None:
                self._count(command, "refused", elapsed_us)
                self.refusals[refusal.reason] += 1
                emit(
                    "cvq.command.refused",
                    mono_ns=moment,
                    command_id=command.id,
                    command=command.name,
                    reason=refusal.reason,
                    detail=refusal.detail,
                )
            case "cvq.chain.malformed" if refusal is not None:
                self._count(command, "malformed", elapsed_us)
                self.counts["chains_malformed"] += 1
                self.refusals[refusal.reason] += 1
                emit(
                    "cvq.chain.malformed",
                    mono_ns=moment,
                    command_id=command.id,
                    reason=refusal.reason,
                    detail=refusal.detail,
                )
            case "cvq.table.widened" | "cvq.table.narrowed" if isinstance(command.command, MacTableSet):
                emit(
                    event,
                    mono_ns=moment,
                    command_id=command.id,
                    unicast=len(command.command.unicast),
                    multicast=len(command.command.multicast),
                )
            case "state.changed" if command.state is not None:
                emit(
                    "state.changed",
                    mono_ns=moment,
                    command_id=command.id,
                    command=command.name,
                    digest=command.state.digest(),
                    late=command.expired,
                )

    def _count(self, command: Pending, outcome: str, elapsed_us: int) -> None:
        self.answers[command.counted_as, outcome] += 1
        if outcome != "late":
            # without the command itself: sixteen tables would be megabytes
            reason = str(command.refusal or "")
            self.recent.append(Remembered(command.id, command.name, outcome, elapsed_us, reason))
            self.latency.observe(elapsed_us)
        if self.trace.followed:
            self.trace.publish(_traced(command, outcome, elapsed_us).line())


def _traced(command: Pending, outcome: str, elapsed_us: int) -> Traced:
    return Traced(
        time_ns=time_ns() - (monotonic_ns() - command.received_ns),
        command_id=command.id,
        command=command.name,
        outcome=outcome,
        # a late answer may have replaced the ERR that the guest was given
        ack=ERR if outcome == "expired" else command.ack,
        elapsed_us=elapsed_us,
        length=len(command.data),
        data=command.data[:SNAP],
        result=command.result,
        reason=str(command.refusal or ""),
    )
