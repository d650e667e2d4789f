"""One run of a daemon as its lines tell it, from its first to its last.

Every event that says something about a command, the device or the daemon's end
has a method here, named in ``_HANDLERS``; events of moves inside the daemon go
to ``switchovers``; all others are only counted.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, ClassVar, Final

from cvqd.report.in_flight import ANSWERS, InFlight
from cvqd.report.line import number, numbers, word
from cvqd.report.migration import Arrival, Departure
from cvqd.report.move import tick
from cvqd.report.scale import plural
from cvqd.report.sequence import OPEN, Sequence
from cvqd.report.switchovers import AROUND, Switchovers

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.report.anomaly import Anomalies
    from cvqd.report.book import Book
    from cvqd.report.line import Line
    from cvqd.report.move import Tick

#: ``how`` of a snapshot that travels from daemon to daemon
_MIGRATION: Final = "front-end"


class RunLog:
    """Takes the lines of one ``run_id``; moves go into ``book``, what is odd into ``anomalies``."""

    def __init__(self, first: Line, book: Book, anomalies: Anomalies) -> None:
        self.run_id: Final = first.run_id
        self.instance: Final = first.instance
        self.first: Final = first
        self.last = first
        #: ``stopped``, ``failed``, or ``open``: no line says that it ended
        self.end = "open"
        self.lines = 0
        #: numbers missing that nothing explains
        self.missing = 0
        #: lines that the guest's rate limit left out
        self.limited: Final[Counter[str]] = Counter()
        #: times that wall time went back
        self.clock_back = 0
        self.commands: Final[Counter[str]] = Counter()
        self.sequence: Final = Sequence()
        self._book = book
        self._anomalies = anomalies
        self._in_flight = InFlight()
        self._recent: deque[Tick] = deque(maxlen=AROUND)
        self._switchovers = Switchovers(book, self._recent)
        self._departure: Departure | None = None
        self._arrival: Arrival | None = None
        #: the line that says that the device stopped
        self._stopped: Line | None = None
        #: rings of the device's latest start
        self._rings: frozenset[int] = frozenset()

    def take(self, line: Line) -> None:
        """One line of this run."""
        known = self.sequence.last
        if not self.sequence.take(line):
            return
        self.lines += 1
        if self.sequence.crowded:
            self._tell_gaps(OPEN // 2)
        if line.seq > known:
            if line.seq != known + 1:
                self._in_flight.excuse()
            if line.fields["ts"] < self.last.fields["ts"]:
                self.clock_back += 1
            self.last = line
        self._unanswered(self._in_flight.unanswered(line.mono_ns), _STOPPED)
        handler = self._HANDLERS.get(line.fields["event"])
        if handler is not None:
            handler(self, line)

    def conclude(self, *, crashed: bool) -> None:
        """No more lines will come; ``crashed`` if another run took its place although this one has no end."""
        if crashed:
            self.end = "crashed"
            self._anomalies.add("daemon.crashed", self.last, "ended without a word; the next run begins")
        stopped, waiting = self._in_flight.log_ended(self.last.mono_ns if self.end == "open" else None)
        self._unanswered(stopped, _STOPPED)
        self._unanswered(waiting, "and the daemon's log ends")
        self._tell_gaps()

    @property
    def summary(self) -> str:
        """What it was like, in a sentence."""
        begin, end = self.first.ts[:23].replace("T", " "), self.last.ts[11:23]
        said = [f"{begin} to {end}, {plural(self.lines, 'line')}, {_ENDS[self.end]}"]
        if self.sequence.first > 1:
            said.append(f"begins with line {self.sequence.first}")
        counts = (
            (self.missing, "missing"),
            (self.sequence.dropped, "dropped by the daemon"),
            (self.limited.total(), "left out by the rate limit"),
            (self.sequence.repeated, "given twice"),
        )
        said += [f"{count} {what}" for count, what in counts if count]
        if self.clock_back:
            said.append(f"the wall clock went back {plural(self.clock_back, 'time')}")
        return "; ".join(said)

    # the log itself

    def _tell_gaps(self, spare: int = 0) -> None:
        for gap in self.sequence.settle(spare):
            self.missing += gap.lines
            numbers = f"{gap.first}" if gap.lines == 1 else f"{gap.first} to {gap.last}"
            self._anomalies.add("seq.gap", gap.line, f"{plural(gap.lines, 'line')} missing: seq {numbers}")

    def _dropped(self, line: Line) -> None:
        self.sequence.drop(number(line.fields, "lines") or 0)

    def _limited(self, line: Line) -> None:
        name = word(line.fields, "of")
        self.limited[name if name in _LIMITED else "other"] += number(line.fields, "lines") or 0
        if name in ANSWERS:
            self._in_flight.excuse()

    # commands

    def _received(self, line: Line) -> None:
        self._in_flight.received(line)

    def _answered(self, line: Line) -> None:
        fields = line.fields
        self._in_flight.answered(line)
        done = tick(line.mono_ns, fields)
        self.commands[done.outcome] += 1
        self._recent.append(done)
        self._switchovers.answered(done)
        if self._arrival is not None and len(self._arrival.ticks) < AROUND:
            self._arrival.ticks.append(done)

    def _expired(self, line: Line) -> None:
        self._answered(line)
        elapsed = number(line.fields, "elapsed_us")
        after = "" if elapsed is None else f" after {elapsed // 1000} ms"
        self._anomalies.add(
            "command.expired", line, f"{word(line.fields, 'command')} had no answer{after}; the guest got ERR"
        )

    def _unanswered(self, lines: list[Line], why: str) -> None:
        for line in lines:
            command_id, command = number(line.fields, "command_id"), word(line.fields, "command")
            self._anomalies.add("command.unanswered", line, f"{command} ({command_id}) has no answer {why}")

    # the device and the daemon

    def _started(self, line: Line) -> None:
        self._rings = rings = numbers(line.fields, "rings")
        self._stopped = None
        self._switchovers.device_started(rings)
        arrival, departure = self._arrival, self._departure
        if arrival is not None and arrival.started is None and arrival.unused is None:
            arrival.started, arrival.rings = line, rings
        elif departure is not None:
            departure.returned = line
        self._departure = None

    def _device_stopped(self, line: Line) -> None:
        # a device's command ids begin anew with its next start
        self._in_flight.device_ended(line.mono_ns)
        self._stopped = line
        if self._departure is not None and self._departure.stopped is None:
            self._departure.stopped = line

    def _new_life(self, line: Line) -> None:
        """A driver starts over: what was saved or loaded before is no longer its state."""
        del line
        self._departure = None

    def _service_stopped(self, line: Line) -> None:
        del line
        self.end = "stopped"

    def _service_failed(self, line: Line) -> None:
        self.end = "failed"
        fields = line.fields
        text = f"{word(fields, 'blame')}: {word(fields, 'reason')}; exit code {number(fields, 'exit_code')}"
        self._anomalies.add("daemon.failed", line, text)

    # moves from one daemon to another

    def _saved(self, line: Line) -> None:
        if line.fields.get("how") == _MIGRATION:
            self._departure = Departure(line, self._rings, self._stopped, list(self._recent))
            self._book.depart(self._departure)

    def _loaded(self, line: Line) -> None:
        if line.fields.get("how") == _MIGRATION:
            self._arrival, self._departure = Arrival(line), None
            self._book.arrive(self._arrival)

    def _unused(self, line: Line) -> None:
        """State that was loaded is given up."""
        arrival = self._arrival
        if arrival is not None and arrival.started is None:
            arrival.unused = arrival.unused or line

    def _refused(self, line: Line) -> None:
        if line.fields.get("how") == _MIGRATION:
            self._anomalies.add("snapshot.refused", line, word(line.fields, "reason"))

    def _replayed(self, line: Line) -> None:
        arrival = self._arrival
        if arrival is not None and arrival.started is None and len(arrival.replayed) < AROUND:
            arrival.replayed.append(line)

    # moves inside this daemon

    def _moving(self, line: Line) -> None:
        self._switchovers.take(line)

    _HANDLERS: ClassVar[dict[str, Callable[[RunLog, Line], None]]] = {
        "cvq.command.received": _received,
        "cvq.command.acked": _answered,
        "cvq.command.refused": _answered,
        "cvq.command.expired": _expired,
        "cvq.chain.malformed": _answered,
        "device.started": _started,
        "device.stopped": _device_stopped,
        "service.stopped": _service_stopped,
        "service.failed": _service_failed,
        "log.dropped": _dropped,
        "log.limited": _limited,
        "snapshot.saved": _saved,
        "snapshot.loaded": _loaded,
        "snapshot.unused": _unused,
        "snapshot.refused": _refused,
        "state.replayed": _replayed,
        "state.reset": _new_life,
        "switchover.started": _moving,
        "switchover.phase": _moving,
        "switchover.failed": _moving,
        "switchover.finished": _moving,
        "rehearsal.started": _moving,
        "rehearsal.finished": _moving,
    }


_STOPPED: Final = "and the device was stopped"

_ENDS: Final = {
    "stopped": "stopped",
    "failed": "ended with an error",
    "crashed": "ended without a word",
    "open": "no end in the log",
}
_LIMITED: Final = ANSWERS | {"cvq.command.received", "cvq.command.forwarded", "state.changed"}
