"""Log files as one stream of lines: plain or gzip, standard input, source and destination together.

Files are read side by side, the line with the earliest wall time next, so that
they may be named in any order: two daemons, or one log that was rotated.  Each
file's own order is kept.  Memory is a line for each file.
"""

from __future__ import annotations

import heapq
import os
import zlib
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cvqd.errors import CvqdError
from cvqd.report.line import Line, is_torn, parse, printable
from cvqd.report.scale import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from gzip import GzipFile
    from io import BufferedReader

#: bytes of the longest line that is looked at; the journal's LineMax is 48 KiB
LONGEST: Final = 1 << 18
_GZIP: Final = b"\x1f\x8b"
#: lines between two calls of ``advanced``
_STRIDE: Final = 4096


class UnreadableError(CvqdError):
    """A log cannot be opened or read."""

    exit_code = 66


@dataclass(slots=True)
class LogFile:
    """One file and what was in it; all counts are of lines."""

    path: str
    lines: int = 0
    #: lines of ours
    events: int = 0
    #: lines that began as ours
    torn: int = 0
    #: everything else
    foreign: int = 0
    #: why reading ended before the file did
    cut: str = ""
    bytes: int = 0

    @property
    def name(self) -> str:
        """Its path, or what of it can be shown."""
        return printable(self.path)

    @property
    def summary(self) -> str:
        """What was in it, in a sentence."""
        said = [f"{plural(self.lines, 'line')}, {self.events} of ours"]
        said += [
            f"{count} {kind}" for kind, count in (("foreign", self.foreign), ("torn", self.torn)) if count
        ]
        return ", ".join(said) + (f"; read only so far: {self.cut}" if self.cut else "")


class Reader:
    """Reads the named logs, ``-`` being standard input; ``files`` is complete when ``lines`` is at its end.

    ``advanced`` is called every few thousand lines.
    """

    def __init__(self, names: Sequence[str], advanced: Callable[[], None] = lambda: None) -> None:
        # a file that is named twice is read once
        self.files: Final = [LogFile(name) for name in dict.fromkeys(names)]
        self._advanced = advanced

    def lines(self) -> Iterator[Line]:
        """All lines of ours; UnreadableError for a file that cannot be opened."""
        streams = [self._read(file) for file in self.files]
        if len(streams) == 1:
            return streams[0]
        # opened now, so that a wrong name is reported before an hour of reading
        return heapq.merge(*map(_opened, streams), key=_Clock())

    def _read(self, file: LogFile) -> Iterator[Line]:
        name = file.name
        try:
            stream = _open(file.path)
        except OSError as error:
            raise UnreadableError(f"{name}: {error.strerror}") from None
        with stream:
            try:
                for number, raw in enumerate(_raw_lines(_unpacked(stream)), 1):
                    file.lines = number
                    file.bytes += len(raw)
                    fields = parse(raw)
                    if fields is not None:
                        file.events += 1
                        yield Line(name, number, fields)
                    elif is_torn(raw):
                        file.torn += 1
                    elif raw.strip():
                        file.foreign += 1
                    if not number % _STRIDE:
                        self._advanced()
            # a gzip file that is torn, or damaged in the middle, is read as far as it goes
            except (OSError, EOFError, zlib.error) as error:
                file.cut = printable(str(error))


class _Clock:
    """Key of the merge: a file's latest wall time so far, which keeps its order if the clock was set back."""

    def __init__(self) -> None:
        self._latest: dict[str, str] = {}

    def __call__(self, line: Line) -> str:
        latest: str = max(self._latest.get(line.file, ""), line.fields["ts"])
        self._latest[line.file] = latest
        return latest


def _opened(lines: Iterator[Line]) -> Iterator[Line]:
    first = next(lines, None)
    return lines if first is None else chain((first,), lines)


def _open(name: str) -> BufferedReader:
    return os.fdopen(0, "rb", closefd=False) if name == "-" else Path(name).open("rb")


def _unpacked(stream: BufferedReader) -> BufferedReader | GzipFile:
    """The stream, decompressed if it is gzip; closing it is not needed."""
    if stream.peek(2)[:2] != _GZIP:
        return stream
    # not loaded for a plain file
    from gzip import GzipFile  # noqa: PLC0415

    return GzipFile(fileobj=stream)


def _raw_lines(stream: BufferedReader | GzipFile) -> Iterator[bytes]:
    """Lines of at most ``LONGEST`` bytes; of a longer one its beginning."""
    whole = True
    for raw in iter(partial(stream.readline, LONGEST), b""):
        if whole:
            yield raw
        whole = raw.endswith(b"\n")
