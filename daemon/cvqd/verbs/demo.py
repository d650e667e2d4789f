"""``cvqd demo``: a guest plays its control commands through the simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from cvqd.verbs import Verbs


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    demo = verbs.add_parser(
        "demo",
        help="show a guest's control commands at work on the simulated device",
        description="Start an instance on the simulated device and a guest with it, have the guest change its"
        " address, filters, VLANs and queues, and check each step. The guest is a Linux kernel where User"
        " Mode Linux is installed, else a driver that cvqd brings.",
        epilog="Exit status: 0 every check held; 1 one did not.",
    )
    demo.set_defaults(verb=_demo)


def _demo(_options: argparse.Namespace) -> int:
    from cvqd.demo import main as demo

    return demo()
