"""Progress of reading, shown on terminals only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from cvqd.report.reader import LogFile

#: seconds between two updates
_EVERY: Final = 0.2


class Progress:
    """One line on ``out`` that is written over, and wiped at the end; nothing for a short log."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._begun = self._shown = time.monotonic()
        self._any = False

    def show(self, files: Sequence[LogFile]) -> None:
        """Update the line if it is time; called often."""
        now = time.monotonic()
        if not self._terminal or now - self._shown < _EVERY:
            return
        self._shown, self._any = now, True
        lines = sum(file.lines for file in files)
        megabytes = sum(file.bytes for file in files) >> 20
        rate = lines / (now - self._begun)
        self._out.write(f"\r{lines:,} lines, {megabytes:,} MiB, {rate:,.0f} lines/s\x1b[K")
        self._out.flush()

    def done(self) -> None:
        """Remove the line."""
        if self._any:
            self._out.write("\r\x1b[K")
            self._out.flush()
