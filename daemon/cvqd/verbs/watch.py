"""``cvqd watch``: a live screen of an instance, or a line per event where there is no terminal."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from cvqd.verbs import instances

if TYPE_CHECKING:
    import argparse

    from cvqd.client.control import Following
    from cvqd.text.terminal import News, Terminal
    from cvqd.verbs import Verbs

_EX_UNAVAILABLE: Final = 69
#: seconds between two requests of the status, and at least between two redraws
_LOOK: Final = 1.0
_DRAW: Final = 0.1


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    watch = verbs.add_parser(
        "watch",
        help="follow a running instance on the terminal",
        description="Follow a running instance: its state, what its guest asks and how often, and its log as"
        " it is written. Press q or Ctrl-C to end. If the instance ends, the screen waits for its return. If"
        " standard output is not a terminal, log lines are printed as they come, until the instance ends.",
        epilog="Exit status: 0 q or Ctrl-C ended it; 69 no such instance runs, or it ended; 75 too many"
        " clients follow it already; 77 no permission to ask it.",
    )
    watch.set_defaults(verb=_watch)
    instances.choose(watch, one=True)


def _watch(options: argparse.Namespace) -> int:
    from cvqd.client.control import Following

    (path,) = instances.control_sockets(options)
    # first: a screen would hide what went wrong
    connection = Following(path, "follow")
    try:
        if sys.stdout.isatty():
            return _on_screen(path, connection)
        return _as_lines(connection)
    except KeyboardInterrupt:
        return 0


def _as_lines(connection: Following) -> int:
    from cvqd.text.event_text import as_line

    print(f"cvqd: following {connection.opening.get('instance')}; times are UTC", file=sys.stderr)
    with connection:
        for event in connection:
            print(as_line(event), flush=True)
    print("cvqd: the instance has ended", file=sys.stderr)
    return _EX_UNAVAILABLE


def _on_screen(path: str, connection: Following) -> int:
    from cvqd.text.terminal import Terminal

    with Terminal() as terminal:
        watch = _Watch(path, connection)
        while True:
            news = watch.turn(terminal)
            if "q" in news.keys:
                return 0
            for ending in (signal.SIGTERM, signal.SIGHUP):
                if ending in news.signals:
                    return 128 + ending


class _Watch:
    """What the screen shows, kept up to date; the instance may end and come back."""

    def __init__(self, path: str, connection: Following) -> None:
        from cvqd.text.paint import Paint
        from cvqd.text.watch_screen import View

        self._path = path
        self._connection: Following | None = connection
        self._view = View(str(connection.opening.get("instance", "")))
        self._paint = Paint.for_stream(sys.stdout)
        self._looked = self._drawn = 0.0
        self._stale = True

    def turn(self, terminal: Terminal) -> News:
        """Look at the status if it is time, draw what changed, wait for more."""
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            self._look(now)
        if self._stale and now - self._drawn >= _DRAW:
            self._draw(terminal)
            self._drawn = now
        pause = _DRAW - (now - self._drawn) if self._stale else _LOOK - (now - self._looked)
        news = terminal.wait(-1 if self._connection is None else self._connection.fileno(), pause)
        if news.ready:
            self._follow()
        self._stale = self._stale or bool(news.signals)
        return news

    def _look(self, now: float) -> None:
        from cvqd.client.control import ControlError, Following, ask

        try:
            if self._connection is None:
                self._connection = Following(self._path, "follow", timeout=_LOOK)
            self._view.take(ask(self._path, "status", timeout=_LOOK), now - self._looked)
        except ControlError as error:
            self._lose(str(error))
        self._looked = now
        self._stale = True

    def _follow(self) -> None:
        from cvqd.client.control import ControlError

        assert self._connection is not None
        try:
            events = self._connection.take()
        except ControlError as error:
            events = None
            self._lose(str(error))
        if events is None:
            self._lose("the instance has ended")
        self._view.events.extend(events or ())
        self._stale = True

    def _lose(self, why: str) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._view.missing = f"{why}; waiting for it"

    def _draw(self, terminal: Terminal) -> None:
        from cvqd.text.watch_screen import screen

        width, height = terminal.size
        clock = time.strftime("%H:%M:%S", time.gmtime())
        terminal.draw(screen(self._view, clock, width, height, self._paint))
        self._stale = False
