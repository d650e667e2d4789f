"""Which running instances a verb is about."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from cvqd.host.socket_paths import CONTROL, DIRECTORY, control_socket

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def choose(verb: argparse.ArgumentParser, *, one: bool) -> None:
    """Take INSTANCE or ``--config FILE``; with ``one`` either is needed, else all instances are meant."""
    which = verb.add_mutually_exclusive_group(required=one)
    which.add_argument(
        "instance",
        metavar="INSTANCE",
        nargs="?",
        help="name of a running instance" + ("" if one else "; all of them if left out"),
    )
    which.add_argument("--config", metavar="FILE", help="the instance of this configuration")


def control_sockets(options: argparse.Namespace) -> Iterator[str]:
    """Control sockets of the chosen instances; all of this machine's where none is chosen."""
    if options.config:
        from cvqd.config import load

        yield load(options.config).control.socket
    elif options.instance:
        yield control_socket(options.instance)
    else:
        sockets = running()
        if not sockets:
            print(f"cvqd: no instance has a control socket in {DIRECTORY}", file=sys.stderr)
        yield from sockets


def running() -> list[str]:
    """Control sockets of this machine, where instances have theirs by default."""
    try:
        names = sorted(os.listdir(DIRECTORY))  # noqa: PTH208 -- pathlib is 10 ms more to import
    except OSError:
        return []
    return [f"{DIRECTORY}/{name}" for name in names if name.endswith(CONTROL)]
