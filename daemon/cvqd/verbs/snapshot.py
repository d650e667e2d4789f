"""``cvqd snapshot``: write down what an instance's device is, show it, compare it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from cvqd.verbs import instances
from cvqd.verbs.failure import InputError, MissingInputError, OutputError

if TYPE_CHECKING:
    import argparse
    from typing import Any

    from cvqd.verbs import Verbs


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    snapshot = verbs.add_parser(
        "snapshot", help="write down what a guest's device is, and look at what was written down"
    )
    verbs = snapshot.add_subparsers(title="verbs", metavar="VERB", dest="of_snapshot", required=True)

    take = verbs.add_parser(
        "take",
        help="write the state of an instance's device to a file",
        description="Write the state of an instance's device to a file: everything that control commands"
        " changed, the guest's features and configuration space, and where each ring stands. The guest is"
        " not stopped for it; where the rings of a running guest stand is not known.",
        epilog="Exit status: 0 the file is written; 69 no such instance runs; 73 the file cannot be written;"
        " 75 no guest's driver has been there, or its state is uncertain now; 77 no permission to ask.",
    )
    take.set_defaults(verb=_take)
    instances.choose(take, one=True)
    take.add_argument("file", metavar="FILE", help="it holds the key of a hash too and is for its owner only")

    show = verbs.add_parser(
        "show",
        help="show what a file holds",
        epilog="Exit status: 0 it is shown; 65 it is not a snapshot; 66 it cannot be read.",
    )
    show.set_defaults(verb=_show)
    show.add_argument("file", metavar="FILE", help="what `snapshot take` wrote")
    show.add_argument("--json", action="store_true", help="the same keys as those of status")

    diff = verbs.add_parser(
        "diff",
        help="compare two files; where they were taken does not count",
        epilog="Exit status: 0 they are equal; 1 they differ; 65 one is not a snapshot; 66 one cannot be"
        " read.",
    )
    diff.set_defaults(verb=_diff)
    diff.add_argument("before", metavar="A", help="one file")
    diff.add_argument("after", metavar="B", help="the other")
    diff.add_argument("--json", action="store_true", help="both values of every key that differs")


def read(file: str) -> bytes:
    """A file's bytes; MissingInputError where it cannot be read."""
    try:
        with open(file, "rb") as data:  # noqa: PTH123 -- pathlib is 10 ms more to import
            return data.read()
    except OSError as error:
        raise MissingInputError(file, error) from error


def _take(options: argparse.Namespace) -> int:
    from base64 import b64decode

    from cvqd.client.control import ask

    (path,) = instances.control_sockets(options)
    _write(options.file, b64decode(ask(path, "snapshot")["snapshot"]))
    return 0


def _show(options: argparse.Namespace) -> int:
    from cvqd.verbs.shown import show

    show([_report(options.file)], as_json=options.json, several=False)
    return 0


def _diff(options: argparse.Namespace) -> int:
    from cvqd.text.snapshot_report import as_line, differences

    found = differences(_report(options.before), _report(options.after))
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for key, values in found.items():
            print(as_line(key, **values))
    return 1 if found else 0


def _report(file: str) -> dict[str, Any]:
    from cvqd.errors import SnapshotError
    from cvqd.text.snapshot_report import report
    from cvqd.wire.snapshot import decode

    try:
        return report(decode(read(file)))
    except SnapshotError as error:
        raise InputError(file, str(error)) from error


def _write(file: str, data: bytes) -> None:
    """In one step: whoever reads it sees all of the old one or all of the new."""
    part = f"{file}.{os.getpid()}"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as output:
                output.write(data)
            os.replace(part, file)  # noqa: PTH105 -- pathlib is 10 ms more to import
        except BaseException:
            os.unlink(part)  # noqa: PTH108
            raise
    except OSError as error:
        raise OutputError(file, error) from error
