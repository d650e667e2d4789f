"""Lines to standard error, written without ever waiting for its reader.

A pipe that nobody reads, a stopped terminal or a restarting journal must not
hold up the control queue.  So nothing is written unless it fits now; the rest
waits in a bounded buffer, and what does not fit there is dropped and counted.
It knows no format: a line is bytes.

Whether bytes fit now is found out in a way that depends on the file.  For a
socket MSG_DONTWAIT does it.  A pipe that polls as writable has a free page and
takes up to PIPE_BUF bytes (pipe(7)), and a terminal takes short writes
likewise; O_NONBLOCK would do better, but it is a flag of the open file
description, which a shell and its children share.  A regular file is always
writable.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

#: bytes of waiting lines; a busy second at debug level takes about a third of it
CAPACITY: Final = 1 << 20

#: what a writable pipe takes without blocking, limits.h
_PIPE_BUF: Final = select.PIPE_BUF


class Sink:
    """Non-blocking writer of whole lines to a borrowed descriptor; for the thread of the event loop only.

    ``on_drained`` is called when lines can be written again after some were dropped.
    """

    def __init__(self, fd: int = 2, *, capacity: int = CAPACITY) -> None:
        self.fd: Final = fd
        self.dropped = 0
        self.on_drained: Callable[[], None] = lambda: None
        self._capacity = capacity
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._some_wait = trio.Event()
        self._gone = False
        #: the last write was the beginning of a line whose rest was dropped
        self._torn = False
        kind = os.fstat(fd).st_mode
        self._socket = socket.socket(fileno=os.dup(fd)) if stat.S_ISSOCK(kind) else None
        self._poll: select.poll | None = None
        if self._socket is None and not stat.S_ISREG(kind):
            self._poll = select.poll()
            self._poll.register(fd, select.POLLOUT)

    def write(self, line: bytes) -> None:
        """Write a line, or keep it for later, or count it as dropped; never blocks."""
        if not self._waiting:
            dropped = self.dropped
            rest = self._write_now(line)
            if not rest:
                if 0 < self.dropped == dropped:
                    # a disk was full and has room again
                    self.on_drained()
                return
        else:
            rest = line
        if rest is line and self._bytes + len(line) > self._capacity:
            # the older lines in the buffer stay: a story is read from its beginning
            self.dropped += 1
            return
        self._waiting.append(rest)
        self._bytes += len(rest)
        self._some_wait.set()

    def flush(self) -> bool:
        """Write what fits now; True if nothing is left waiting."""
        while self._waiting:
            rest = self._write_now(self._waiting[0])
            self._bytes -= len(self._waiting[0]) - len(rest)
            if rest:
                self._waiting[0] = rest
                return False
            self._waiting.popleft()
        if self.dropped and not self._gone:
            self.on_drained()
        return not self._waiting

    async def flush_task(self) -> None:
        """Write waiting lines as soon as they fit; runs until cancelled."""
        while True:
            await self._some_wait.wait()
            while not self.flush():
                await trio.lowlevel.wait_writable(self.fd)
            self._some_wait = trio.Event()

    def close(self, *, timeout: float = 0.2) -> None:
        """Write waiting lines for at most ``timeout`` seconds; the descriptor stays open."""
        until = time.monotonic() + timeout
        while not self.flush() and (left := until - time.monotonic()) > 0:
            waiting = select.poll()
            waiting.register(self.fd, select.POLLOUT)
            waiting.poll(left * 1000)
        if self._socket is not None:
            self._socket.close()

    def _write_now(self, line: bytes) -> bytes:
        """Write as much as fits; return the rest of the line."""
        if self._gone:
            self.dropped += 1
            return b""
        whole = line = b"\n" + line if self._torn else line
        try:
            if self._socket is not None:
                return line[self._socket.send(line, socket.MSG_DONTWAIT) :]
            while line and self._writable():
                line = line[os.write(self.fd, line[:_PIPE_BUF]) :]
        except BlockingIOError:
            pass
        except OSError:
            # the reader is gone (EPIPE, EIO) or the disk is full: not a reason to stop serving a guest
            self._gone = self._poll is not None or self._socket is not None
            self._torn = self._torn or line is not whole
            self.dropped += 1
            return b""
        self._torn = False
        return line

    def _writable(self) -> bool:
        return self._poll is None or bool(self._poll.poll(0))
