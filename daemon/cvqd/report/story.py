"""Lines in, findings out: every line goes to the run it belongs to.

A run that never said that it stopped, and that another one follows in the same
log, has crashed.  Two daemons whose instances share a name but have separate
files do not follow each other.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from cvqd.report.anomaly import Anomalies
from cvqd.report.book import Book
from cvqd.report.findings import Findings
from cvqd.report.run_log import RunLog

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cvqd.report.line import Line
    from cvqd.report.reader import LogFile

#: runs that are followed at once; the one that began first makes room for the next
RUNS: Final = 2000

#: what logrotate(8) appends to a name
_ROTATED: Final = re.compile(r"([.-]\d+)?(\.gz)?$")


class Story:
    """Follows the runs of all daemons in the logs."""

    def __init__(self) -> None:
        self._anomalies = Anomalies()
        self._book = Book(self._anomalies)
        self._runs: dict[str, RunLog] = {}
        #: (log, instance) -> the run that is followed there
        self._current: dict[tuple[str, str], RunLog] = {}
        #: run_id -> the run that began after it
        self._next: dict[str, RunLog] = {}

    def feed(self, lines: Iterable[Line]) -> None:
        """Take all of these lines."""
        runs = self._runs
        for line in lines:
            run = runs.get(line.fields["run_id"])
            if run is None:
                run = self._begin(line)
            run.take(line)

    def conclude(self, files: Sequence[LogFile]) -> Findings:
        """There are no more lines."""
        for run in self._runs.values():
            self._conclude(run)
        moves = self._book.conclude()
        book = self._book
        return Findings(
            files,
            list(self._runs.values()),
            moves,
            book.verdicts,
            list(book.rehearsals),
            book.blackouts.distribution(),
            self._anomalies,
        )

    def _begin(self, line: Line) -> RunLog:
        run = self._runs[line.fields["run_id"]] = RunLog(line, self._book, self._anomalies)
        log = _ROTATED.sub("", line.file), run.instance
        before = self._current.get(log)
        if before is not None:
            self._next[before.first.fields["run_id"]] = run
        if len(self._current) > RUNS:
            self._current.clear()
        self._current[log] = run
        if len(self._runs) > RUNS:
            oldest = self._runs.pop(next(iter(self._runs)))
            self._conclude(oldest)
            self._next.pop(oldest.first.fields["run_id"], None)
        return run

    def _conclude(self, run: RunLog) -> None:
        """A run's next began after its last line, unless two daemons share one log and one name."""
        follower = self._next.get(run.first.fields["run_id"])
        crashed = (
            run.end == "open"
            and follower is not None
            and follower.first.fields["ts"] >= run.last.fields["ts"]
        )
        run.conclude(crashed=crashed)
