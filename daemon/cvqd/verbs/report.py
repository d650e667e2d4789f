"""``cvqd report``: what moved, how long it took and what was odd, from daemons' logs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final

from cvqd.verbs.failure import OutputError
from cvqd.verbs.shown import columns

if TYPE_CHECKING:
    import argparse

    from cvqd.verbs import Verbs

EX_DATAERR: Final = 65


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    report = verbs.add_parser(
        "report",
        help="read logs back: migrations and rehearsals, blackouts, anomalies",
        description="Read the log lines of one or more daemons and show what happened to their guests: each"
        " move with its phases and its blackout, and everything that is odd. Lines of other programs are"
        " ignored.",
        epilog="Exit status: 0 all is well; 1 a move failed or something is odd; 65 no line is cvqd's; 66 a"
        " log cannot be read; 73 the page cannot be written.",
    )
    report.set_defaults(verb=_report)
    report.add_argument(
        "logs",
        metavar="LOG",
        nargs="+",
        help="JSON lines of cvqd or of journalctl -o json, plain or gzip, in any order; - is standard input",
    )
    form = report.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one object, whose keys are stable")
    form.add_argument("--html", metavar="FILE", help="write one self-contained page with pictures")


def _report(options: argparse.Namespace) -> int:
    from cvqd.report.progress import Progress
    from cvqd.report.reader import Reader
    from cvqd.report.story import Story

    progress = Progress(sys.stderr)
    reader = Reader(options.logs, lambda: progress.show(reader.files))
    story = Story()
    try:
        story.feed(reader.lines())
    finally:
        progress.done()
    findings = story.conclude(reader.files)
    if not findings.events:
        print("cvqd: no line in there is cvqd's", file=sys.stderr)
        return EX_DATAERR
    if options.html:
        from pathlib import Path

        from cvqd.report.page import page

        try:
            Path(options.html).write_text(page(findings), encoding="utf-8")
        except OSError as error:
            raise OutputError(options.html, error) from error
        print(f"cvqd: {findings.verdict}", file=sys.stderr)
    elif options.json:
        from cvqd.report.as_json import report

        print(json.dumps(report(findings), indent=2))
    else:
        from cvqd.report.text import render

        encoding = sys.stdout.encoding
        print(render(findings, columns()).encode(encoding, "replace").decode(encoding))
    return 0 if findings.well else 1
