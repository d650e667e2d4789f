"""Lines for the followers of an instance, none of which can hold it up.

Each follower has a queue of its own, bounded in bytes.  Lines that do not fit
are dropped and counted, and a line ``{"lost": N}`` marks the gap.  A line is
made once for all followers, and not at all while there are none: publishers
check ``followed`` first.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

#: bytes of lines that may wait for one follower
CAPACITY: Final = 1 << 20


class Feed:
    """Hands lines to followers; for the thread of the event loop only."""

    def __init__(self) -> None:
        self._followers: list[Follower] = []

    @property
    def followed(self) -> bool:
        """Whether a line would reach anybody."""
        return bool(self._followers)

    def publish(self, line: bytes) -> None:
        """Give a line, including its line break, to every follower; never blocks."""
        for follower in self._followers:
            follower.put(line)

    @contextmanager
    def follow(self, capacity: int = CAPACITY) -> Iterator[Follower]:
        """A follower of what is published from now on."""
        follower = Follower(capacity)
        self._followers.append(follower)
        try:
            yield follower
        finally:
            self._followers.remove(follower)


class Follower:
    """The queue between a feed and one reader."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._lost = 0
        self._news = trio.Event()

    def put(self, line: bytes) -> None:
        """Queue a line, or drop and count it."""
        if self._bytes + len(line) > self._capacity:
            self._lost += 1
            return
        if self._lost:
            self._mark_gap()
        self._lines.append(line)
        self._bytes += len(line)
        self._news.set()

    async def take(self) -> bytes:
        """All waiting lines, as soon as there is one."""
        await self._news.wait()
        return self.waiting()

    def waiting(self) -> bytes:
        """All waiting lines, if there are any."""
        self._news = trio.Event()
        if self._lost:
            self._mark_gap()
        lines = b"".join(self._lines)
        self._lines.clear()
        self._bytes = 0
        return lines

    def _mark_gap(self) -> None:
        """Say how many lines are missing here; the mark is so short that it is not counted."""
        self._lines.append(b'{"lost":%d}\n' % self._lost)
        self._lost = 0
