"""A histogram of durations for metrics: cheap to add to, of constant size."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

#: upper bounds of the buckets in µs: 1, 2 and 5 of each decade, 50 µs to 20 s
BOUNDS: Final = tuple(
    step * 10**decade for decade in range(1, 8) for step in (1, 2, 5) if 50 <= step * 10**decade <= 20_000_000
)


class Histogram:
    """Counts durations in µs; ``count`` and ``sum`` (µs) cover all of them."""

    __slots__ = ("_buckets", "count", "sum")

    def __init__(self) -> None:
        # the last one is beyond all bounds
        self._buckets = [0] * (len(BOUNDS) + 1)
        self.count = 0
        self.sum = 0

    def observe(self, microseconds: int) -> None:
        """Add one duration."""
        self._buckets[bisect_left(BOUNDS, microseconds)] += 1
        self.count += 1
        self.sum += microseconds

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Each bucket's upper bound in seconds, and how many durations are no longer than that."""
        ends = [bound / 1_000_000 for bound in BOUNDS] + [float("inf")]
        return zip(ends, accumulate(self._buckets), strict=True)
