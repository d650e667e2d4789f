"""The command line: verbs and exit codes.

Machine output goes to standard output, messages to standard error; exit codes
are those of sysexits.h.  The verbs are in ``verbs``, in the order in which help
and manuals show them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cvqd import __version__
from cvqd.verbs import (
    announce,
    check_config,
    demo,
    failure,
    metrics,
    probe,
    rehearse,
    report,
    restore,
    run,
    snapshot,
    status,
    trace,
    watch,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EX_USAGE: Final = 64

#: vhost-user's back-end conventions: what ``--print-capabilities`` prints
CAPABILITIES: Final = {"type": "net", "features": []}

VERBS: Final = (
    run,
    check_config,
    probe,
    status,
    watch,
    trace,
    metrics,
    announce,
    snapshot,
    restore,
    rehearse,
    report,
    demo,
)


class _Paragraphs(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Keep blank lines in a description; argparse would join its paragraphs."""
        return "\n\n".join(
            super(_Paragraphs, self)._fill_text(part, width, indent) for part in text.split("\n\n")
        )


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Paragraphs, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Have the verb itself reject unknown arguments; argparse leaves them to the top-level parser."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        """Exit with EX_USAGE (64, sysexits.h) instead of argparse's 2."""
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the process's exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # an encoding without µ gets a question mark
        sys.stdout.reconfigure(errors="replace")
    try:
        code = _dispatch(parser().parse_args(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader of our output is gone; keep the interpreter's last flush from failing, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failure.EX_OSERR
    except KeyboardInterrupt:
        return 130
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 -- the process ends here
        return failure.report(error)
    return code


def _dispatch(options: argparse.Namespace) -> int:
    if options.print_capabilities:
        print(json.dumps(CAPABILITIES))
        return 0
    if options.verb is None:
        parser().error("a verb is missing; see --help")
    verb: Callable[[argparse.Namespace], int] = options.verb
    return verb(options)


def parser() -> argparse.ArgumentParser:
    """All verbs with their arguments."""
    parser = _Parser(prog="cvqd", description="Own a vhost-vdpa network device for a virtual machine.")
    parser.add_argument("--version", action="version", version=f"cvqd {__version__}", help="show the version")
    parser.add_argument(
        "--print-capabilities",
        action="store_true",
        help="show what a VMM may expect, as JSON (back-end program conventions of vhost-user)",
    )
    parser.set_defaults(verb=None)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", parser_class=_Parser)
    for verb in VERBS:
        verb.add(verbs)
    return parser
