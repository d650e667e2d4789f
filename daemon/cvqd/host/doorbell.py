"""Eventfds: one owner each, and one place where a task waits for several.

Waiting is edge-triggered and never reads the counter: every write to an
eventfd is an edge, even if the counter was not zero.  The kernel's vhost does
not read the counter either (``drivers/vhost/vhost.c``).  So a borrowed, shared
or blocking descriptor needs no special care.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING, Final, Self

import trio

if TYPE_CHECKING:
    from types import TracebackType

ONE: Final = (1).to_bytes(8, "little")


def ring(fd: int) -> None:
    """Signal a borrowed doorbell: an eventfd, a socket or a pipe.

    One that is full is signalled already.  If it is closed, not connected or not
    writable, nobody listens, and that is the fault of whoever lent it.
    """
    try:
        # the flag is shared with whoever lent it, who could have cleared it to make us block
        os.set_blocking(fd, False)
        os.write(fd, ONE)
    except OSError:
        return


def drain(fd: int) -> None:
    """Clear an eventfd's counter, so that ``DoorbellSet.add`` does not report earlier signals."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(fd)


class Doorbell:
    """An eventfd of our own."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Descriptor, to lend."""
        return self._fd

    def ring(self) -> None:
        """Signal whoever waits; if the counter is full, it is signalled already."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._fd, ONE)

    def close(self) -> None:
        """Close the descriptor; no task may wait on it directly."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DoorbellSet:
    """Doorbells that one task waits for together.  Descriptors are borrowed."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._rung: list[tuple[int, int]] = []

    def add(self, fd: int) -> None:
        """Watch a doorbell; one that is signalled already counts at once."""
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)

    def discard(self, fd: int) -> None:
        """Stop watching; a closed or unknown descriptor is ignored."""
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(fd)

    def rang(self) -> bool:
        """Whether ``wait`` would return at once."""
        self._rung += self._epoll.poll(0)
        return bool(self._rung)

    async def wait(self, deadline: float | None = None) -> list[int]:
        """Doorbells that rang since the last call; empty after ``deadline`` (trio's clock)."""
        if self.rang():
            await trio.lowlevel.checkpoint()
        else:
            with trio.move_on_at(deadline) if deadline is not None else contextlib.nullcontext():
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            self.rang()
        rung, self._rung = self._rung, []
        return [fd for fd, _ in rung]

    def close(self) -> None:
        """Wake a waiting task with ``trio.ClosedResourceError`` and stop watching everything."""
        if not self._epoll.closed:
            trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
