"""A limit on what a guest can make the daemon write.

A guest may cause some events as fast as it can kick.  Each of them has a token
bucket of its own: a long burst passes whole, and a flood does not fill the
disk.  Lines that are left out are counted, and ``logging`` reports the count.
The caller passes the time.
"""

from __future__ import annotations

from typing import Final

#: lines of one event that pass at once, and lines per second after that
BURST: Final = 2000
RATE: Final = 200

_NS: Final = 1_000_000_000


class GuestLimit:
    """Bucket of one event: ``burst`` lines deep, refilled with ``rate`` lines per second."""

    __slots__ = ("_cost", "_full", "_level", "_then", "left_out")

    def __init__(self, burst: int = BURST, rate: int = RATE) -> None:
        # the level is kept in nanoseconds of refill, so that integer arithmetic suffices
        self._cost = _NS // rate
        self._full = self._cost * burst
        self._level = self._full
        self._then = 0
        #: lines left out since the count was last taken
        self.left_out = 0

    def admits(self, now_ns: int) -> bool:
        """Whether a line may pass at this moment (monotonic ns); if not, it is counted."""
        level = min(self._level + now_ns - self._then, self._full)
        self._then = now_ns
        if level < self._cost:
            self._level = level
            self.left_out += 1
            return False
        self._level = level - self._cost
        return True

    def take_left_out(self) -> int:
        """Lines left out since the last call."""
        count, self.left_out = self.left_out, 0
        return count
