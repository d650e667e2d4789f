"""``cvqd announce``: have a guest announce itself to its network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.verbs import instances

if TYPE_CHECKING:
    import argparse

    from cvqd.verbs import Verbs


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    announce = verbs.add_parser(
        "announce", help="ask a running guest to announce itself to its network (gratuitous ARP)"
    )
    announce.set_defaults(verb=_announce)
    instances.choose(announce, one=True)


def _announce(options: argparse.Namespace) -> int:
    from cvqd.control_client import ask

    for path in instances.control_sockets(options):
        ask(path, "announce")
    return 0
