"""``cvqd status``: what running instances are and have done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cvqd.verbs import instances
from cvqd.verbs.failure import report
from cvqd.verbs.shown import show

if TYPE_CHECKING:
    import argparse

    from cvqd.verbs import Verbs


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    status = verbs.add_parser("status", help="show running instances")
    status.set_defaults(verb=_status)
    instances.choose(status, one=False)
    status.add_argument("--json", action="store_true")


def _status(options: argparse.Namespace) -> int:
    from cvqd.control_client import ControlError, ask

    found: list[Any] = []
    code = 0
    for path in instances.control_sockets(options):
        try:
            found.append(ask(path, "status"))
        except ControlError as error:
            code = report(error)
    show(found, as_json=options.json, several=not (options.instance or options.config))
    return code
