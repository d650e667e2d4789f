"""The log: events of the catalogue become lines on standard error.

One JSON object per line, or on a terminal, or if configured, text for people.
The catalogue has the levels, so a call site only says what happened.  ``seq``
counts emitted lines: a gap means lost lines.  structlog renders text for people
and is only loaded for that; ``log_sink`` writes the bytes.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import trio

from cvqd.events import CATALOGUE
from cvqd.host import colour
from cvqd.host.feed import Feed
from cvqd.host.log_limit import GuestLimit

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.host.log_sink import Sink

Line = dict[str, Any]

SCHEMA: Final = 1

#: if the wall clock moves this much against the monotonic one, it was set, or the host slept
_STEP_NS: Final = 1_000_000_000

#: seconds between reports of lines that were left out: a report with each line that still passes
#: would be a flood of its own
_ACCOUNT: Final = 1.0

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

#: sd-daemon(3): a line may begin with its syslog priority
_PRIORITIES: Final = {"debug": b"<7>", "info": b"<6>", "warning": b"<4>", "error": b"<3>"}


class StructuredLog:
    """Satisfies ``events.EventLog``; emit only from the thread of the event loop.

    ``device`` names the device in every line; ``format`` is ``json``, ``console`` or
    ``auto`` (console on a terminal).
    """

    def __init__(
        self,
        sink: Sink,
        *,
        instance: str,
        device: str,
        level: str = "info",
        format: str = "auto",  # noqa: A002 -- the configuration's word
    ) -> None:
        terminal = os.isatty(sink.fd)
        if format == "auto":
            format = "console" if terminal else "json"  # noqa: A001 -- likewise
        self.run_id: Final = uuid.uuid4().hex[:12]
        self._sink = sink
        self._instance = instance
        self._device = device
        self._seq = 0
        self._clock = Clock()
        colours = colour.wanted(terminal=terminal)
        self._render = for_people(colors=colours) if format == "console" else to_json
        self._prefixes = _PRIORITIES if format == "json" and journal_reads(sink.fd) else {}
        #: events by name, including those that were not written
        self.counts: Final = Counter[str]()
        #: lines left out because a guest caused too many
        self.limited = 0
        #: the lines that are written, as JSON, for followers
        self.feed: Final = Feed()
        self._dropped = 0
        self._limits: Final = {name: GuestLimit() for name, event in CATALOGUE.items() if event.guest}
        self._some_left_out = trio.Event()
        self.set_level(level)
        sink.on_drained = self._report_dropped

    def emit(self, name: str, /, *, mono_ns: int | None = None, **fields: object) -> None:
        """Write one line; see ``events.EventLog``."""
        self.counts[name] += 1
        level = self._levels.get(name)
        if level is None:
            return
        now = time.monotonic_ns()
        limit = self._limits.get(name)
        if limit is not None and not limit.admits(now):
            self.limited += 1
            self._some_left_out.set()
            return
        timestamp = self._clock.timestamp(now)
        if self._clock.stepped:
            seconds, self._clock.stepped = self._clock.stepped, 0.0
            self.emit("clock.stepped", seconds=round(seconds, 3))
        self._seq += 1
        # the order of keys is the order in the line
        line = {
            "schema": SCHEMA,
            "ts": timestamp,
            "mono_ns": mono_ns or now,
            "seq": self._seq,
            "run_id": self.run_id,
            "instance": self._instance,
            "device": self._device,
            "level": level,
            "event": name,
            **fields,
        }
        if self.feed.followed:
            self.feed.publish(to_json(line).encode() + b"\n")
        self._sink.write(self._prefixes.get(level, b"") + self._render(line).encode() + b"\n")

    def enabled(self, name: str, /) -> bool:
        """Whether the level lets this event through."""
        return name in self._levels

    @property
    def dropped(self) -> int:
        """Lines that standard error did not take in time."""
        return self._dropped + self._sink.dropped

    def set_level(self, level: str) -> None:
        """Change the level of a running log."""
        self._levels = {
            name: event.level for name, event in CATALOGUE.items() if LEVELS[event.level] >= LEVELS[level]
        }

    def set_device(self, device: str) -> None:
        """Name another device in the lines to come."""
        self._device = device

    async def flush_task(self) -> None:
        """Write waiting lines and report lines that were left out; runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sink.flush_task)
            while True:
                await self._some_left_out.wait()
                await trio.sleep(_ACCOUNT)
                self._some_left_out = trio.Event()
                self._tell_left_out()

    def close(self, *, timeout: float = 0.2) -> None:
        """Try to write buffered lines for at most ``timeout`` seconds."""
        self._tell_left_out()
        self._sink.close(timeout=timeout)

    def _tell_left_out(self) -> None:
        for name, limit in self._limits.items():
            if limit.left_out:
                self.emit("log.limited", of=name, lines=limit.take_left_out())

    def _report_dropped(self) -> None:
        lines, self._sink.dropped = self._sink.dropped, 0
        self._dropped += lines
        self.emit("log.dropped", lines=lines)


class Clock:
    """Wall time as text; the date is formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._date = ""
        self._apart = time.time_ns() - time.monotonic_ns()
        #: seconds by which the wall clock was set between the last two calls of ``timestamp``, else 0
        self.stepped = 0.0

    def timestamp(self, mono_ns: int) -> str:
        """UTC in ISO 8601 with milliseconds; ``mono_ns`` is the monotonic clock now."""
        now = time.time_ns()
        apart = now - mono_ns
        if not -_STEP_NS < apart - self._apart < _STEP_NS:
            self.stepped = (apart - self._apart) / 1e9
        # compare with the last line, not with the first: a clock that is slewed drifts as far within a day
        self._apart = apart
        milliseconds = now // 1_000_000
        second, rest = divmod(milliseconds, 1000)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._date}.{rest:03d}Z"


_encode: Final = json.JSONEncoder(separators=(",", ":"), default=str).encode


def to_json(line: Line) -> str:
    """One line of JSON, in ASCII, so that no line can hold a line break or an escape sequence."""
    return _encode(line)


def for_people(*, colors: bool) -> Callable[[Line], str]:
    """Renderer of text; leaves out what people need not see, and keeps the catalogue's order of fields."""
    # 50 ms of imports, which a daemon that logs JSON can do without
    import structlog  # noqa: PLC0415

    renderer = structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False)

    def render(line: Line) -> str:
        # a terminal shows one daemon, which has one instance
        for key in ("schema", "mono_ns", "seq", "run_id", "instance", "device"):
            del line[key]
        for key, value in line.items():
            if isinstance(value, list):
                line[key] = "; ".join(map(str, value))
        line["timestamp"] = line.pop("ts")[11:-1]
        return renderer(None, line["level"], line)

    return render


def journal_reads(fd: int) -> bool:
    """Whether the descriptor leads to the journal: JOURNAL_STREAM is ``device:inode``, systemd.exec(5)."""
    status = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
