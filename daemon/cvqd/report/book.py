"""All moves of a report, in a bounded amount of memory, and what is odd about them.

The latest ``KEPT`` moves are kept whole, and of older ones those that did not
end well; the others are counted and their blackouts remembered.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from cvqd.report.blackout import Blackouts, long_ones
from cvqd.report.migration import Pairs, joined
from cvqd.report.move import Move
from cvqd.report.scale import duration

if TYPE_CHECKING:
    from cvqd.report.anomaly import Anomalies
    from cvqd.report.line import Line
    from cvqd.report.migration import Arrival, Departure, Sides
    from cvqd.report.rehearsal import Rehearsal

KEPT: Final = 2000


class Book:
    """Opens moves for runs, and judges them when no more lines about them can come."""

    def __init__(self, anomalies: Anomalies) -> None:
        self._pairs = Pairs()
        self.blackouts: Final = Blackouts()
        self.verdicts: Final[Counter[str]] = Counter()
        self.rehearsals: Final[deque[Rehearsal]] = deque(maxlen=KEPT)
        self.opened = 0
        self._anomalies = anomalies
        self._moves: deque[Move] = deque()
        self._unwell: deque[Move] = deque(maxlen=KEPT)

    def open(self, line: Line, kind: str, name: str) -> Move:
        """A move inside one daemon, from the first line about it."""
        self.opened += 1
        move = Move(self.opened, kind, name, line, line, line.mono_ns)
        self._keep(move)
        return move

    def depart(self, departure: Departure) -> None:
        """A guest leaves a daemon; more lines about it may come for a while."""
        self._pairs.depart(departure)
        self._join(self._pairs.take_old())

    def arrive(self, arrival: Arrival) -> None:
        """A guest comes to a daemon; likewise."""
        self._pairs.arrive(arrival)
        self._join(self._pairs.take_old())

    def conclude(self) -> list[Move]:
        """All moves that are kept, judged, in order of time."""
        self._join(self._pairs.conclude())
        moves = [*self._unwell, *self._moves]
        for move, median in long_ones(moves):
            self._odd(
                move,
                "blackout.long",
                f"{duration(move.blackout_us or 0)}, where the median of like moves is {duration(median)}",
            )
        for move in self._moves:
            self._judge(move)
        return sorted(moves, key=lambda move: (move.line.ts, move.number))

    def _join(self, migrations: list[Sides]) -> None:
        for departure, arrival in migrations:
            self.opened += 1
            self._keep(joined(self.opened, departure, arrival))

    def _keep(self, move: Move) -> None:
        self._moves.append(move)
        if len(self._moves) > KEPT:
            oldest = self._moves.popleft()
            self._judge(oldest)
            if oldest.verdict != "well":
                self._unwell.append(oldest)

    def _judge(self, move: Move) -> None:
        move.order()
        if move.failure:
            self._odd(move, "move.failed", move.failure)
        elif move.end_ns is None and (move.kind != "migration" or move.target):
            reached = f"{move.phases[-1].name} was the last phase" if move.phases else "no phase ended"
            self._odd(move, "move.unfinished", f"no line tells how it ended; {reached}")
        before, after = move.digest_before, move.digest_after
        if before and after and before != after:
            self._odd(move, "digest.unequal", f"{before} before, {after} after")
        if move.lost_rings:
            rings = ", ".join(map(str, sorted(move.lost_rings)))
            self._odd(move, "queue.lost", f"did not come back: ring {rings}")
        if move.blackout_us is not None:
            self.blackouts.add(move.blackout_us)
        self.verdicts[move.verdict] += 1

    def _odd(self, move: Move, kind: str, text: str) -> None:
        move.anomalies.append(kind)
        self._anomalies.add(kind, move.last, text, move.number)
