"""Lines for whoever follows an instance; nobody who follows can hold it.

Each follower has a queue of its own, bounded in bytes.  What does not fit is
left out and counted, and a line ``{"lost": N}`` stands where the gap is.  A
line is made once, however many follow, and not at all while nobody does:
publishers look at ``followed`` first.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

#: bytes of lines that wait for one follower
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
        """Give a line, with its line break, to everybody; never blocks."""
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
        """Queue a line, or count it."""
        if self._bytes + len(line) > self._capacity:
            self._lost += 1
            return
        if self._lost:
            self._mark_gap()
        self._lines.append(line)
        self._bytes += len(line)
        self._news.set()

    async def take(self) -> bytes:
        """All waiting lines; waits for one."""
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
        """Say how many lines are missing here; so short that the capacity need not know."""
        self._lines.append(b'{"lost":%d}\n' % self._lost)
        self._lost = 0
