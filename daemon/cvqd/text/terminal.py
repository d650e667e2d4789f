"""A full-screen display on a terminal, which is restored however the program ends.

The alternate screen keeps what was there before; single keys are read without
Enter.  Signals arrive as bytes on a pipe (``signal.set_wakeup_fd``), so that
one wait takes keys, resizes, Ctrl-Z and a socket alike.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

# xterm's control sequences; every terminal of today has them
_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[2J"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

_SIGNALS: Final = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGTERM, signal.SIGHUP)


class News(NamedTuple):
    """What a wait brought."""

    keys: str
    signals: frozenset[int]
    ready: bool


class Terminal:
    """The terminal of standard output, and of standard input if that is one."""

    def __init__(self) -> None:
        self._out = sys.stdout
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else -1
        self._mode: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._wake = (-1, -1)

    def __enter__(self) -> Self:
        self._wake = os.pipe()
        for end in self._wake:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        # only signals with a Python handler arrive on the pipe
        self._handlers = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        for end in self._wake:
            os.close(end)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        return os.get_terminal_size(self._out.fileno())

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, none longer than the screen is wide nor more than it is high."""
        shown = f"{_REST_OF_LINE}\n".join(lines)
        self._write(f"{_HOME}{shown}{_REST_OF_LINE}{_REST_OF_SCREEN}")

    def wait(self, fd: int, seconds: float) -> News:
        """Wait for keys, signals or ``fd`` (-1 for none); Ctrl-Z is dealt with here."""
        wanted = [end for end in (self._wake[0], self._keys, fd) if end >= 0]
        ready, _, _ = select.select(wanted, [], [], max(0.0, seconds))
        keys = os.read(self._keys, 64).decode(errors="replace") if self._keys in ready else ""
        if self._keys in ready and not keys:
            self._keys = -1  # its other end is gone
        signals = frozenset(os.read(self._wake[0], 64)) if self._wake[0] in ready else frozenset()
        if signal.SIGTSTP in signals:
            self._suspend()
        return News(keys, signals, fd in ready)

    def _take(self) -> None:
        if self._keys >= 0:
            self._mode = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys, termios.TCSANOW)
        self._write(_ENTER)

    def _give_back(self) -> None:
        self._write(_LEAVE)
        if self._mode is not None and self._keys >= 0:
            termios.tcsetattr(self._keys, termios.TCSANOW, self._mode)

    def _suspend(self) -> None:
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        # the shell has continued us
        self._take()

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
