"""The moves inside one daemon, as the lines of one of its runs tell them, and the rehearsals around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.report.line import number, word
from cvqd.report.move import Phase
from cvqd.report.rehearsal import Rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvqd.report.book import Book
    from cvqd.report.line import Line
    from cvqd.report.move import Move, Tick

#: commands before a move, and after it, that are kept
AROUND: Final = 32
#: moves of one run whose lines may be interleaved
_MOVES: Final = 4


class Switchovers:
    """Puts the moves of one run into ``book``; ``recent`` are its latest commands, before a move begins."""

    def __init__(self, book: Book, recent: Iterable[Tick]) -> None:
        self._book = book
        self._recent = recent
        #: the latest moves by name, and the one around which commands are of interest
        self._moves: dict[str, Move] = {}
        self._move: Move | None = None
        self._rehearsal: Rehearsal | None = None
        #: rings of the device's latest start
        self._rings: frozenset[int] = frozenset()

    def take(self, line: Line) -> None:
        """One line ``switchover.*`` or ``rehearsal.*``."""
        match line.fields["event"]:
            case "switchover.started":
                self._started(line)
            case "switchover.phase":
                self._phase(line)
            case "switchover.failed":
                self._failed(line)
            case "switchover.finished":
                self._finished(line)
            case "rehearsal.started":
                self._rehearsal = Rehearsal.begun(line)
                self._book.rehearsals.append(self._rehearsal)
            case "rehearsal.finished" if self._rehearsal is not None:
                self._rehearsal.ended(line)
                self._rehearsal = None

    def device_started(self, rings: frozenset[int]) -> None:
        """A device runs these rings: the target's, if that is in the middle of a move."""
        self._rings = rings
        move = self._move
        if move is not None and move.end_ns is None:
            move.rings_after = rings

    def answered(self, done: Tick) -> None:
        """Keep a command that was answered while or after the guest moved."""
        move = self._move
        if move is None:
            return
        over = move.end_ns is not None
        if len(move.ticks) < (3 if over else 2) * AROUND:
            move.ticks.append(done)
        elif over:
            self._move = None

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

    def _started(self, line: Line) -> None:
        move = self._move_of(line)
        move.line = line
        move.kind = "dry" if line.fields.get("kind") == "dry" else "switchover"
        move.begin_ns = line.mono_ns
        move.source, move.target = word(line.fields, "source"), word(line.fields, "target")
        move.digest_before = move.digest_before or word(line.fields, "digest")

    def _phase(self, line: Line) -> None:
        elapsed = number(line.fields, "elapsed_us") or 0
        phases = self._move_of(line).phases
        # a move has a handful; a log that says otherwise is not believed
        if len(phases) < AROUND:
            phases.append(Phase(word(line.fields, "phase"), line.mono_ns, elapsed))

    def _failed(self, line: Line) -> None:
        move, fields = self._move_of(line), line.fields
        move.end_ns = line.mono_ns
        move.failed_phase, move.reason = word(fields, "phase"), word(fields, "reason")
        move.guest_on = word(fields, "guest_on")

    def _finished(self, line: Line) -> None:
        move, fields = self._move_of(line), line.fields
        move.end_ns = line.mono_ns
        move.kind = "dry" if fields.get("kind") == "dry" else "switchover"
        move.source = move.source or word(fields, "source")
        move.target = move.target or word(fields, "target")
        move.blackout_us = number(fields, "blackout_us")
        move.replayed = number(fields, "commands")
        move.digest_before = word(fields, "digest_before") or move.digest_before
        move.digest_after = word(fields, "digest_after")
