"""Which running instances a verb is about."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Final

from cvqd.host.socket_paths import CONTROL, DIRECTORY, control_socket

if TYPE_CHECKING:
    from collections.abc import Iterator

EX_NOPERM: Final = 77


def choose(verb: argparse.ArgumentParser, *, one: bool) -> None:
    """Accept INSTANCE or ``--config FILE``; with ``one`` either is required, else the default is all."""
    which = verb.add_mutually_exclusive_group(required=one)
    which.add_argument(
        "instance",
        metavar="INSTANCE",
        nargs="?",
        type=_name,
        help="name of a running instance" + ("" if one else "; all instances if left out"),
    )
    which.add_argument("--config", metavar="FILE", help="the instance of this configuration")


def _name(text: str) -> str:
    if not text or "/" in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the name of an instance; a file goes with --config"
        )
    return text


def control_sockets(options: argparse.Namespace) -> Iterator[str]:
    """Control sockets of the chosen instances; all of this machine's if none is chosen.

    ControlError with 77 if the directory may not be read.
    """
    if options.config:
        from cvqd.config import load

        yield load(options.config).control.socket
    elif options.instance:
        yield control_socket(options.instance)
    else:
        try:
            sockets = _listed()
        except FileNotFoundError:
            sockets = []
        except PermissionError as error:
            from cvqd.client.control import ControlError

            raise ControlError(f"{DIRECTORY}: no permission to look for instances", EX_NOPERM) from error
        if not sockets:
            print(f"cvqd: no instance has a control socket in {DIRECTORY}", file=sys.stderr)
        yield from sockets


def running() -> list[str]:
    """Control sockets in the default directory; none if it cannot be read."""
    try:
        return _listed()
    except OSError:
        return []


def _listed() -> list[str]:
    names = sorted(os.listdir(DIRECTORY))  # noqa: PTH208 -- pathlib is 10 ms more to import
    return [f"{DIRECTORY}/{name}" for name in names if name.endswith(CONTROL)]
