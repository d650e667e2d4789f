"""The log: events of the catalogue become lines on standard error.

One JSON object a line; on a terminal, or when asked, the same for people.  The
level is the catalogue's, so a call site names only what happened.  ``seq`` counts
emitted lines: a gap is a lost line.  structlog carries an event through the
processors below; what becomes of the bytes is ``log_sink``'s.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import structlog

from cvqd.events import CATALOGUE
from cvqd.host.log_limit import GuestLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

    from structlog.typing import FilteringBoundLogger, Processor

    from cvqd.host.log_sink import Sink

SCHEMA: Final = 1

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

#: sd-daemon(3): the number that begins a line is its syslog priority
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
        if format == "auto":
            format = "console" if os.isatty(sink.fd) else "json"  # noqa: A001
        self.run_id: Final = uuid.uuid4().hex[:12]
        self._sink = sink
        self._header = Header(self.run_id, instance, device)
        self._processors: list[Processor] = [self._header.add]
        if format == "console":
            self._processors += [for_people, structlog.dev.ConsoleRenderer(colors=os.isatty(sink.fd))]
        else:
            self._processors.append(to_json)
        self._lines = _Lines(sink, prefixed=format == "json" and journal_reads(sink.fd))
        self._limits: Final = {name: GuestLimit() for name, event in CATALOGUE.items() if event.guest}
        self.set_level(level)
        sink.on_drained = self._report_dropped

    def emit(self, name: str, /, *, mono_ns: int | None = None, **fields: object) -> None:
        """Write one line; see ``events.EventLog``."""
        method = self._methods.get(name)
        if method is None:
            return
        now = time.monotonic_ns()
        limit = self._limits.get(name)
        if limit is not None:
            if not limit.admits(now):
                return
            if limit.left_out:
                self.emit("log.limited", of=name, lines=limit.take_left_out())
        method(name, mono_ns=mono_ns or now, **fields)

    def enabled(self, name: str, /) -> bool:
        """Whether the level lets this event through."""
        return name in self._methods

    def set_level(self, level: str) -> None:
        """Change the level of a running log."""
        logger: FilteringBoundLogger = structlog.wrap_logger(
            self._lines,
            processors=self._processors,
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
            context_class=dict,
        ).bind()
        self._methods: Mapping[str, Callable[..., Any]] = {
            name: getattr(logger, event.level)
            for name, event in CATALOGUE.items()
            if LEVELS[event.level] >= LEVELS[level]
        }

    def set_device(self, device: str) -> None:
        """Name another device in the lines to come."""
        self._header.device = device

    async def flush_task(self) -> None:
        """Write buffered lines whenever standard error takes them; runs until cancelled."""
        await self._sink.flush_task()

    def close(self, *, timeout: float = 0.2) -> None:
        """Give buffered lines a last chance of ``timeout`` seconds."""
        for name, limit in self._limits.items():
            if limit.left_out:
                self.emit("log.limited", of=name, lines=limit.take_left_out())
        self._sink.close(timeout=timeout)

    def _report_dropped(self) -> None:
        lines, self._sink.dropped = self._sink.dropped, 0
        self.emit("log.dropped", lines=lines)


class Header:
    """What every line begins with; the order of keys is the order in the line."""

    def __init__(self, run_id: str, instance: str, device: str) -> None:
        self.run_id: Final = run_id
        self.instance: Final = instance
        self.device = device
        self._seq = 0
        self._second = 0
        self._date = ""

    def add(self, _logger: object, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Processor: put the header before the event's own fields."""
        self._seq += 1
        return {
            "schema": SCHEMA,
            "ts": self._timestamp(),
            "mono_ns": event.pop("mono_ns"),
            "seq": self._seq,
            "run_id": self.run_id,
            "instance": self.instance,
            "device": self.device,
            "level": level,
            "event": event.pop("event"),
            **event,
        }

    def _timestamp(self) -> str:
        """UTC in ISO 8601 with milliseconds; the date is formatted once a second."""
        milliseconds = time.time_ns() // 1_000_000
        second, rest = divmod(milliseconds, 1000)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._date}.{rest:03d}Z"


_encode: Final = json.JSONEncoder(separators=(",", ":"), default=str).encode


def to_json(_logger: object, _level: str, event: MutableMapping[str, Any]) -> str:
    """Processor: one line of JSON, in ASCII, so that no line can hold a line break or an escape sequence."""
    return _encode(event)


def for_people(_logger: object, _level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Processor: what a terminal need not show is left out."""
    for key in ("schema", "mono_ns", "seq", "run_id", "device"):
        del event[key]
    event["timestamp"] = event.pop("ts")[11:-1]
    return event


def journal_reads(fd: int) -> bool:
    """Whether the descriptor is the journal's: JOURNAL_STREAM is ``device:inode``, systemd.exec(5)."""
    status = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Lines:
    """The logger under structlog: a method for each level that takes the rendered line."""

    def __init__(self, sink: Sink, *, prefixed: bool) -> None:
        for level in LEVELS:
            setattr(self, level, self._writer(sink, _PRIORITIES[level] if prefixed else b""))

    @staticmethod
    def _writer(sink: Sink, prefix: bytes) -> Callable[[str], None]:
        def write(line: str) -> None:
            sink.write(prefix + line.encode() + b"\n")

        return write
