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
        "announce",
        help="ask a running guest to announce itself to its network (gratuitous ARP)",
        description="Raise the announce bit of the guest's network device and tell the front-end, so that the"
        " guest announces itself to its network, as after a move. The log shows its acknowledgement.",
        epilog="Exit status: 0 the guest was asked; 69 no such instance runs; 75 no guest can be asked now,"
        " with the reason; 77 no permission to ask the instance.",
    )
    announce.set_defaults(verb=_announce)
    instances.choose(announce, one=True)


def _announce(options: argparse.Namespace) -> int:
    from cvqd.client.control import ask

    for path in instances.control_sockets(options):
        ask(path, "announce")
    return 0
