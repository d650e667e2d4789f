"""The numbers of one run's lines: which are missing, and what the daemon says about that.

``seq`` counts emitted lines, so a number that never comes is a lost line.  Lines
that the daemon dropped itself (``log.dropped``) have their numbers; lines that
``log.limited`` counts were never emitted and have none.  A log that begins
later than 1 was rotated or cut, which is no loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cvqd.report.line import Line

#: gaps of a run that may still be filled or explained
OPEN: Final = 64


@dataclass(slots=True)
class Gap:
    """Numbers ``first`` to ``last`` are missing; ``line`` is the one that showed it."""

    first: int
    last: int
    line: Line

    @property
    def lines(self) -> int:
        """How many are missing."""
        return self.last - self.first + 1


class Sequence:
    """Takes the numbers of one run in nearly any order."""

    def __init__(self) -> None:
        self.first = 0
        self.last = 0
        #: numbers that came twice
        self.repeated = 0
        #: lines the daemon said it dropped
        self.dropped = 0
        self._gaps: list[Gap] = []
        #: dropped lines whose gap has not been seen
        self._credit = 0

    def take(self, line: Line) -> bool:
        """Note a line's number; False if it was there before."""
        seq = line.seq
        if seq == self.last + 1:
            self.last = seq
            self.first = self.first or seq
        elif not self.last:
            self.first = self.last = seq
        elif seq > self.last:
            self._gaps.append(Gap(self.last + 1, seq - 1, line))
            self.last = seq
        elif seq < self.first:
            if seq < self.first - 1:
                self._gaps.insert(0, Gap(seq + 1, self.first - 1, line))
            self.first = seq
        elif not self._fill(seq):
            self.repeated += 1
            return False
        return True

    def drop(self, lines: int) -> None:
        """The daemon dropped so many lines, just before it said so."""
        self.dropped += lines
        self._credit += lines
        self._explain()

    @property
    def crowded(self) -> bool:
        """Whether ``settle`` has to be called now."""
        return len(self._gaps) > OPEN

    def settle(self, spare: int = 0) -> list[Gap]:
        """Gaps that nothing explains, all but the latest ``spare``; they are forgotten."""
        settled = len(self._gaps) - spare
        gaps, self._gaps = self._gaps[:settled], self._gaps[settled:]
        return gaps

    def _explain(self) -> None:
        """Take dropped lines off the latest gaps."""
        while self._credit and self._gaps:
            gap = self._gaps[-1]
            taken = min(self._credit, gap.lines)
            self._credit -= taken
            gap.last -= taken
            if not gap.lines:
                self._gaps.pop()

    def _fill(self, seq: int) -> bool:
        """A line that comes late."""
        for index in range(len(self._gaps) - 1, -1, -1):
            gap = self._gaps[index]
            if gap.first <= seq <= gap.last:
                rest = [Gap(gap.first, seq - 1, gap.line), Gap(seq + 1, gap.last, gap.line)]
                self._gaps[index : index + 1] = [part for part in rest if part.lines]
                return True
        return False
