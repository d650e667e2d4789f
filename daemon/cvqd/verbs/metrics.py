"""``cvqd metrics``: instances' metrics as text, for Prometheus and compatible collectors."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from cvqd.host.socket_paths import CONTROL, DIRECTORY
from cvqd.verbs import instances
from cvqd.verbs.failure import MissingLibraryError, OutputError, report

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvqd.client.control import ControlError
    from cvqd.client.exporter import Gather
    from cvqd.verbs import Verbs

#: node_exporter reads files with this suffix; one for all instances, so none of an ended one is left
TEXTFILE: Final = "cvqd.prom"
#: exit codes: nobody listens, or nobody answers in time
_SILENT: Final = (69, 75)


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    metrics = verbs.add_parser(
        "metrics",
        help="show what running instances have counted, as OpenMetrics text",
        description="Show what running instances have counted, as OpenMetrics text. Without INSTANCE,"
        f" show all that have a control socket in {DIRECTORY}; one that does not answer has"
        " cvqd_up 0. The textfile is in Prometheus's older text format, which node_exporter reads; over HTTP"
        " the scraper chooses the format. --listen needs prometheus-client (pip install 'cvqd[prometheus]').",
        epilog="Exit status: 0 all instances answered; 69 or 75 one did not, or prometheus-client is not"
        " installed; 71 the address cannot be listened on; 73 the textfile cannot be written; 77 no"
        " permission to ask.",
    )
    metrics.set_defaults(verb=_metrics)
    instances.choose(metrics, one=False)
    to = metrics.add_mutually_exclusive_group()
    to.add_argument(
        "--textfile",
        metavar="DIR",
        help=f"write {TEXTFILE} into this directory in one step, for node_exporter's textfile collector",
    )
    to.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=_address,
        help="answer scrapes over HTTP until interrupted, asking the instances each time; port 0 is any",
    )


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 0xFFFF:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _metrics(options: argparse.Namespace) -> int:
    from cvqd.text import metrics_text

    if options.listen:
        return _serve(options)
    texts, errors = _gather(instances.control_sockets(options))
    code = 0
    for error in errors:
        code = report(error)
    found = metrics_text.families(texts)
    if options.textfile:
        _write(options.textfile, metrics_text.prometheus(found))
    else:
        print(metrics_text.openmetrics(found), end="")
    return code


def _serve(options: argparse.Namespace) -> int:
    try:
        from cvqd.client.exporter import Exporter
    except ImportError as error:
        raise MissingLibraryError("--listen", "prometheus-client", "prometheus") from error
    host, port = options.listen
    where, thread = Exporter(_asked_anew(options), report).listen(host, port)
    print(f"cvqd: listening on {where}", file=sys.stderr, flush=True)
    with suppress(KeyboardInterrupt):
        thread.join()
    return 0


def _asked_anew(options: argparse.Namespace) -> Gather:
    """Asks the named instance each time, or else all that run by then, if any."""
    if options.instance or options.config:
        named = list(instances.control_sockets(options))
        return lambda: _gather(named)
    return lambda: _gather(instances.running())


def _gather(sockets: Iterable[str]) -> tuple[list[str], list[ControlError]]:
    """Metrics of each instance that answers, and the errors of the others."""
    from cvqd.client.control import ControlError, ask

    texts: list[str] = []
    errors: list[ControlError] = []
    for path in sockets:
        try:
            texts.append(ask(path, "metrics")["text"])
        except ControlError as error:
            errors.append(error)
            if error.exit_code in _SILENT:
                texts.append(_down(path))
    return texts, errors


def _down(path: str) -> str:
    """Metrics of an instance that does not answer."""
    from cvqd.telemetry.metrics import render

    name = path.rpartition("/")[2].removesuffix(CONTROL)
    return render(name, {"cvqd_up": 0})


def _write(directory: str, text: str) -> None:
    """Replace the textfile in one step: a collector sees all of the old one or all of the new."""
    from pathlib import Path

    target = Path(directory, TEXTFILE)
    # the collector ignores this name
    part = Path(directory, f".{TEXTFILE}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        # the collector runs as another user: our umask must not matter
        part.chmod(0o644)
        part.replace(target)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise OutputError(target, error) from error
