"""``cvqd check-config``: report the mistakes in configuration files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.errors import ConfigError
from cvqd.verbs.failure import report

if TYPE_CHECKING:
    import argparse

    from cvqd.verbs import Verbs


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    check = verbs.add_parser(
        "check-config",
        help="report every mistake in configuration files",
        description="Read configuration files and report every mistake on standard error, one per line, as"
        " file:line:column: key: reason. No device and no socket is opened.",
        epilog="Exit status: 0 every file is right; 78 one is not.",
    )
    check.set_defaults(verb=_check_config)
    check.add_argument("files", metavar="FILE", nargs="+", help="configuration to read")


def _check_config(options: argparse.Namespace) -> int:
    from cvqd.config import load

    code = 0
    for file in options.files:
        try:
            load(file)
        except ConfigError as error:
            code = report(error)
    return code
