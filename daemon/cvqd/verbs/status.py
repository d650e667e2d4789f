"""``cvqd status``: what running instances are and have done."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from cvqd.host.socket_paths import DIRECTORY
from cvqd.verbs import instances
from cvqd.verbs.failure import report
from cvqd.verbs.shown import columns, show

if TYPE_CHECKING:
    import argparse

    from cvqd.verbs import Verbs


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    status = verbs.add_parser(
        "status",
        help="show running instances",
        description="Show what running instances are and have done: the device, which of its features the"
        " guest is not offered and why, the isolation of each queue, tracked state, counters and the last"
        " commands."
        f" Without INSTANCE, show all that have a control socket in {DIRECTORY}:"
        " several in a table, one line each; with --json as a list.",
        epilog="Exit status: 0 every instance is shown; 69 no such instance runs; 75 it does not answer;"
        " 77 no permission to ask it.",
    )
    status.set_defaults(verb=_status)
    instances.choose(status, one=False)
    status.add_argument("--json", action="store_true", help="show it as JSON")


def _status(options: argparse.Namespace) -> int:
    from cvqd.client.control import ControlError, ask

    found: list[Any] = []
    code = 0
    for path in instances.control_sockets(options):
        try:
            found.append(ask(path, "status"))
        except ControlError as error:
            code = report(error)
    if len(found) > 1 and not options.json:
        _overview(found)
    else:
        show(found, as_json=options.json, several=not (options.instance or options.config))
    return code


def _overview(reports: list[Any]) -> None:
    from cvqd.text.paint import Paint
    from cvqd.text.status_overview import overview

    print(overview(reports, columns(), Paint.for_stream(sys.stdout)))
