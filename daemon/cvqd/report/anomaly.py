"""What is odd in a log: a kind with a stable name, a sentence, the line it was seen at."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from cvqd.report.line import Line, Place

#: kinds, gravest first, and what each means
KINDS: Final = {
    "move.failed": "a move failed; the text says where the guest is",
    "move.unfinished": "a move has no end in these logs",
    "snapshot.refused": "a front-end's state could not be given out or taken in",
    "digest.unequal": "the state after a move is not the state before it",
    "queue.lost": "a ring ran before and does not run after",
    "daemon.crashed": "a daemon ended without a word, and another took its place",
    "daemon.failed": "a daemon ended because of an error",
    "command.unanswered": "a guest's command has no answer in the log",
    "command.expired": "the device did not answer in time; the guest got ERR",
    "blackout.long": "a blackout was far longer than those of like moves",
    "seq.gap": "lines are missing that the daemon did not drop itself",
}

#: anomalies of one kind that are listed; further ones are only counted
KEPT: Final = 100


class Anomaly(NamedTuple):
    """One finding; ``move`` is the number of the move it belongs to, from 1, or None."""

    kind: str
    text: str
    place: Place
    instance: str
    run_id: str
    ts: str
    move: int | None = None


class Anomalies:
    """All findings, counted; of each kind the first ``KEPT`` are kept."""

    def __init__(self) -> None:
        self.counts: Final[Counter[str]] = Counter()
        self._kept: Final[list[Anomaly]] = []

    def add(self, kind: str, line: Line, text: str, move: int | None = None) -> None:
        """Note one finding at its line."""
        assert kind in KINDS, kind
        self.counts[kind] += 1
        if self.counts[kind] <= KEPT:
            self._kept.append(Anomaly(kind, text, line.place, line.instance, line.run_id, line.ts, move))

    def kept(self) -> list[Anomaly]:
        """Gravest kind first, each in order of time."""
        order = list(KINDS)
        return sorted(self._kept, key=lambda found: (order.index(found.kind), found.ts))

    @property
    def left_out(self) -> int:
        """Findings that are only counted."""
        return self.counts.total() - len(self._kept)
