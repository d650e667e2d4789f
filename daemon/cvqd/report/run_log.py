"""One run of a daemon as its lines tell it, from its first to its last.

Every event that says something about a move, a command or the daemon's end has
a method here, named in ``_HANDLERS``; all others only count.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, ClassVar, Final

from cvqd.report.in_flight import ANSWERS, InFlight
from cvqd.report.line import number, numbers, word
from cvqd.report.migration import Arrival, Departure
from cvqd.report.move import Phase, tick
from cvqd.report.rehearsal import Rehearsal
from cvqd.report.scale import plural
from cvqd.report.sequence import OPEN, Sequence

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.report.anomaly import Anomalies
    from cvqd.report.book import Book
    from cvqd.report.line import Line
    from cvqd.report.move import Move, Tick

#: commands before a move, and after it, that are kept
AROUND: Final = 32
#: moves of one run whose lines may come mixed
_MOVES: Final = 4
#: whose doing a snapshot is that travels from daemon to daemon
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
        #: the latest moves by name, and the one around which commands are of interest
        self._moves: dict[str, Move] = {}
        self._move: Move | None = None
        self._departure: Departure | None = None
        self._arrival: Arrival | None = None
        #: the line that says that the device stands
        self._stopped: Line | None = None
        self._rehearsal: Rehearsal | None = None
        #: rings of the device's latest start
        self._rings: frozenset[int] = frozenset()

    def take(self, line: Line) -> None:
        """One line of this run."""
        known = self.sequence.last
        if not self.sequence.take(line):
            return
        self.lines += 1
        if line.seq > known:
            if line.seq != known + 1:
                self._in_flight.excuse()
                if self.sequence.crowded:
                    self._tell_gaps(OPEN // 2)
            if line.fields["ts"] < self.last.fields["ts"]:
                self.clock_back += 1
            self.last = line
        handler = self._HANDLERS.get(line.fields["event"])
        if handler is not None:
            handler(self, line)

    def conclude(self, *, crashed: bool) -> None:
        """No more lines will come; ``crashed`` if another run took its place although this one has no end."""
        if crashed:
            self.end = "crashed"
            self._anomalies.add("daemon.crashed", self.last, "ended without a word; the next run begins")
        overdue = (
            self._in_flight.overdue(self.last.mono_ns) if self.end == "open" else self._in_flight.ended()
        )
        self._unanswered(list(overdue), "and the daemon's log ends")
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
        if self._move is not None:
            self._watch(self._move, done)
        if self._arrival is not None and len(self._arrival.ticks) < AROUND:
            self._arrival.ticks.append(done)

    def _expired(self, line: Line) -> None:
        self._answered(line)
        elapsed = number(line.fields, "elapsed_us")
        after = "" if elapsed is None else f" after {elapsed // 1000} ms"
        self._anomalies.add(
            "command.expired", line, f"{word(line.fields, 'command')} had no answer{after}; the guest got ERR"
        )

    def _watch(self, move: Move, done: Tick) -> None:
        """Keep a command that was answered while or after the guest moved."""
        over = move.end_ns is not None
        if len(move.ticks) < (3 if over else 2) * AROUND:
            move.ticks.append(done)
        elif over:
            self._move = None

    def _unanswered(self, lines: list[Line], why: str) -> None:
        for line in lines:
            command_id, command = number(line.fields, "command_id"), word(line.fields, "command")
            self._anomalies.add("command.unanswered", line, f"{command} ({command_id}) has no answer {why}")

    # the device and the daemon

    def _started(self, line: Line) -> None:
        self._rings = rings = numbers(line.fields, "rings")
        self._stopped = None
        move, arrival, departure = self._move, self._arrival, self._departure
        if move is not None and move.end_ns is None:
            move.rings_after = rings
        if arrival is not None and arrival.started is None and arrival.unused is None:
            arrival.started, arrival.rings = line, rings
        elif departure is not None:
            departure.returned = line
        self._departure = None

    def _device_stopped(self, line: Line) -> None:
        # a device's command ids begin anew with its next start
        self._unanswered(list(self._in_flight.ended()), "and the device was stopped")
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

    def _move_of(self, line: Line) -> Move:
        """The move that a line names; opened if its first line has not come."""
        fields = line.fields
        name = word(fields, "move")
        move = self._moves.get(name)
        if move is None:
            move = self._book.open(line, "dry" if fields.get("kind") == "dry" else "switchover", name)
            move.rings_before = self._rings
            move.ticks.extend(self._recent)
            if self._rehearsal is not None:
                move.rehearsal = self._rehearsal.name
            self._moves[name] = self._move = move
            if len(self._moves) > _MOVES:
                del self._moves[next(iter(self._moves))]
        move.last = line
        return move

    def _move_started(self, line: Line) -> None:
        move = self._move_of(line)
        move.line = line
        move.kind = "dry" if line.fields.get("kind") == "dry" else "switchover"
        move.begin_ns = line.mono_ns
        move.source, move.target = word(line.fields, "source"), word(line.fields, "target")
        move.digest_before = move.digest_before or word(line.fields, "digest")

    def _move_phase(self, line: Line) -> None:
        elapsed = number(line.fields, "elapsed_us") or 0
        phases = self._move_of(line).phases
        # a move has a handful; a log that says otherwise is not believed
        if len(phases) < AROUND:
            phases.append(Phase(word(line.fields, "phase"), line.mono_ns, elapsed))

    def _move_failed(self, line: Line) -> None:
        move, fields = self._move_of(line), line.fields
        move.end_ns = line.mono_ns
        move.failed_phase, move.reason = word(fields, "phase"), word(fields, "reason")
        move.guest_on = word(fields, "guest_on")

    def _move_finished(self, line: Line) -> None:
        move, fields = self._move_of(line), line.fields
        move.end_ns = line.mono_ns
        move.kind = "dry" if fields.get("kind") == "dry" else "switchover"
        move.source = move.source or word(fields, "source")
        move.target = move.target or word(fields, "target")
        move.blackout_us = number(fields, "blackout_us")
        move.replayed = number(fields, "commands")
        move.digest_before = word(fields, "digest_before") or move.digest_before
        move.digest_after = word(fields, "digest_after")

    def _rehearsal_started(self, line: Line) -> None:
        self._rehearsal = Rehearsal.begun(line)
        self._book.rehearsals.append(self._rehearsal)

    def _rehearsal_finished(self, line: Line) -> None:
        if self._rehearsal is not None:
            self._rehearsal.ended(line)
            self._rehearsal = None

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
        "switchover.started": _move_started,
        "switchover.phase": _move_phase,
        "switchover.failed": _move_failed,
        "switchover.finished": _move_finished,
        "rehearsal.started": _rehearsal_started,
        "rehearsal.finished": _rehearsal_finished,
    }


_ENDS: Final = {
    "stopped": "stopped",
    "failed": "ended with an error",
    "crashed": "ended without a word",
    "open": "no end in the log",
}
_LIMITED: Final = ANSWERS | {"cvq.command.received", "cvq.command.forwarded", "state.changed"}
