"""How long blackouts were, and which of them were far longer than the others."""

from __future__ import annotations

from array import array
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cvqd.report.move import Move

#: the rule: more than TIMES the median of at least LIKE like moves, and MARGIN_US above it
TIMES: Final = 3
LIKE: Final = 5
MARGIN_US: Final = 10_000

RULE: Final = (
    f"more than {TIMES} times the median of at least {LIKE} moves of its kind from the same device "
    f"to the same, and more than {MARGIN_US // 1000} ms above it"
)


class Distribution(NamedTuple):
    """Blackouts in µs."""

    number: int
    least: int
    median: int
    p95: int
    most: int


class Blackouts:
    """Collects blackouts of moves, eight bytes each."""

    def __init__(self) -> None:
        self._all = array("Q")
        self._sorted = True

    def add(self, blackout_us: int) -> None:
        """One more."""
        self._all.append(blackout_us)
        self._sorted = False

    def distribution(self) -> Distribution | None:
        """What they were like; None without any."""
        if not self._all:
            return None
        if not self._sorted:
            self._all = array("Q", sorted(self._all))
            self._sorted = True
        count = len(self._all)
        return Distribution(
            count,
            self._all[0],
            self._all[(count - 1) // 2],
            self._all[-(-count * 95 // 100) - 1],
            self._all[-1],
        )


def long_ones(moves: Iterable[Move]) -> Iterator[tuple[Move, int]]:
    """Moves whose blackout breaks the rule, with the median that they are compared with."""
    like: defaultdict[tuple[str, str, str], list[Move]] = defaultdict(list)
    for move in moves:
        if move.blackout_us is not None:
            like[move.kind, move.source, move.target].append(move)
    for group in like.values():
        median = sorted(move.blackout_us or 0 for move in group)[(len(group) - 1) // 2]
        if len(group) < LIKE:
            continue
        for move in group:
            blackout = move.blackout_us or 0
            if blackout > TIMES * median and blackout > median + MARGIN_US:
                yield move, median
