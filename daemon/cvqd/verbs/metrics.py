"""``cvqd metrics``: what instances count, as text for Prometheus and its kin."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from cvqd.socket_paths import CONTROL, DIRECTORY
from cvqd.verbs import instances
from cvqd.verbs.failure import OutputError, report

if TYPE_CHECKING:
    import argparse

    from cvqd.verbs import Verbs

#: node_exporter reads files with this suffix; one file for all instances, so that none is left behind
TEXTFILE: Final = "cvqd.prom"
#: nobody listens, or nobody answers in time
_SILENT: Final = (69, 75)


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    metrics = verbs.add_parser(
        "metrics",
        help="show what running instances have counted, as OpenMetrics text",
        description="Show what running instances have counted, as OpenMetrics text. Without INSTANCE all are"
        f" shown that have a control socket in {DIRECTORY}; one that does not answer has"
        " cvqd_up 0. The textfile is in Prometheus's older text format, which is what node_exporter reads.",
        epilog="Exit status: 0 all instances answered; 69 or 75 one did not; 73 the textfile cannot be"
        " written; 77 no permission to ask.",
    )
    metrics.set_defaults(verb=_metrics)
    instances.choose(metrics, one=False)
    metrics.add_argument(
        "--textfile",
        metavar="DIR",
        help=f"write {TEXTFILE} for node_exporter's textfile collector here, in one step",
    )


def _metrics(options: argparse.Namespace) -> int:
    from cvqd.control_client import ControlError, ask
    from cvqd.text import metrics_text

    texts: list[str] = []
    code = 0
    for path in instances.control_sockets(options):
        try:
            texts.append(ask(path, "metrics")["text"])
        except ControlError as error:
            code = report(error)
            if code in _SILENT:
                texts.append(_down(path))
    found = metrics_text.families(texts)
    if options.textfile:
        _write(options.textfile, metrics_text.prometheus(found))
    else:
        print(metrics_text.openmetrics(found), end="")
    return code


def _down(path: str) -> str:
    """Metrics of an instance that gives none itself."""
    from cvqd.metrics import render

    name = path.rpartition("/")[2].removesuffix(CONTROL)
    return render(name, {"cvqd_up": 0})


def _write(directory: str, text: str) -> None:
    """Replace the textfile in one step: a collector sees all of the old one or all of the new."""
    from pathlib import Path

    target = Path(directory, TEXTFILE)
    # a name that the collector passes over
    part = Path(directory, f".{TEXTFILE}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        # the collector is another user, whatever our umask is
        part.chmod(0o644)
        part.replace(target)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise OutputError(target, error) from error
