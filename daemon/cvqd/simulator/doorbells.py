"""The device's notifications: kick eventfds in one epoll set, and call eventfds to signal.

Kicks are *edges*, as in the kernel: the eventfd is never read, so several
holders cannot steal each other's kicks, and each write is one event.  An
eventfd that is already signalled when it is bound rings at once.  Descriptors
are borrowed and never closed here.
"""

from __future__ import annotations

import errno
import os
import select
from contextlib import suppress
from pathlib import Path
from typing import Final

from cvqd.errors import DeviceError
from cvqd.host.doorbell import ring

#: token of a wake-up of our own
WAKE: Final = -1


class Doorbells:
    """Maps descriptors to tokens (ring indexes, or negative numbers for other sources)."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._tokens: dict[int, set[int]] = {}
        self._bound: dict[int, int] = {}
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.bind(WAKE, self._alarm)

    def fileno(self) -> int:
        """The epoll descriptor: readable while something rang."""
        return self._epoll.fileno()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._epoll.closed

    @property
    def descriptors(self) -> frozenset[int]:
        """The descriptors that are watched."""
        return frozenset(self._tokens)

    def bind(self, token: int, fd: int) -> None:
        """Watch ``fd`` for ``token``, instead of its earlier descriptor; -1 only unbinds."""
        self.unbind(token)
        if fd < 0:
            return
        if fd in self._tokens:
            # registered for another token: an edge counts for both, and registering again rings both
            with suppress(OSError):
                self._epoll.unregister(fd)
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        self._tokens.setdefault(fd, set()).add(token)
        self._bound[token] = fd

    def unbind(self, token: int) -> None:
        """Stop watching for ``token``; nothing happens if it has no descriptor."""
        fd = self._bound.pop(token, None)
        if fd is None:
            return
        holders = self._tokens[fd]
        holders.discard(token)
        if not holders:
            del self._tokens[fd]
            # fails if its owner has closed it already
            with suppress(OSError):
                self._epoll.unregister(fd)

    def take(self) -> set[int]:
        """Tokens that rang since the last call, ``WAKE`` among them."""
        rung: set[int] = set()
        for fd, _ in self._epoll.poll(0):
            rung |= self._tokens.get(fd, set())
        return rung

    def wake(self) -> None:
        """Make ``fileno`` readable: there is work that no descriptor signalled."""
        os.eventfd_write(self._alarm, 1)

    def close(self) -> None:
        """Stop watching everything; only our own descriptors are closed."""
        self._tokens.clear()
        self._bound.clear()
        self._epoll.close()
        os.close(self._alarm)


class Bell:
    """A borrowed eventfd that the device rings: a ring's call or the configuration's."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = -1

    def bind(self, fd: int) -> None:
        """Signal ``fd`` from now on; -1 for none."""
        self._fd = fd

    def ring(self) -> None:
        """Signal the eventfd, if there is one."""
        if self._fd >= 0:
            ring(self._fd)


def require_eventfd(call: str, fd: int, arguments: str) -> None:
    """DeviceError EBADF for a descriptor that is not open, EINVAL for one that is not an eventfd."""
    try:
        kind = str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError as error:
        raise DeviceError(call, errno.EBADF, "not an open descriptor", arguments) from error
    if kind != "anon_inode:[eventfd]":
        raise DeviceError(call, errno.EINVAL, "not an eventfd", arguments)
