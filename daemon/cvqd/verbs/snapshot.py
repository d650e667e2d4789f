"""``cvqd snapshot``: take a snapshot of an instance's device, show one, compare two."""

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
        "snapshot", help="save the state of a guest's device to a file; show and compare such files"
    )
    verbs = snapshot.add_subparsers(title="verbs", metavar="VERB", dest="of_snapshot", required=True)

    take = verbs.add_parser(
        "take",
        help="save the state of an instance's device to a file",
        description="Save the state of an instance's device to a file: everything that control commands"
        " changed, the guest's features and configuration space, and where each ring stands. The guest is"
        " not stopped, so the file does not say where its running rings stand.",
        epilog="Exit status: 0 the file is written; 69 no such instance runs; 73 the file cannot be written;"
        " 75 no guest's driver has been there, or its state is uncertain now; 77 no permission to ask.",
    )
    take.set_defaults(verb=_take)
    instances.choose(take, one=True)
    take.add_argument(
        "file", metavar="FILE", help="file to write; only its owner can read it, as it may hold a hash key"
    )

    show = verbs.add_parser(
        "show",
        help="show what a snapshot holds",
        epilog="Exit status: 0 it is shown; 65 it is not a snapshot; 66 it cannot be read.",
    )
    show.set_defaults(verb=_show)
    show.add_argument("file", metavar="FILE", help="a file that `snapshot take` wrote")
    show.add_argument("--json", action="store_true", help="show it as JSON, with the keys of `cvqd status`")

    diff = verbs.add_parser(
        "diff",
        help="compare two snapshots, whatever devices they were taken from",
        epilog="Exit status: 0 they are equal; 1 they differ; 65 one is not a snapshot; 66 one cannot be"
        " read.",
    )
    diff.set_defaults(verb=_diff)
    diff.add_argument("before", metavar="A", help="one snapshot")
    diff.add_argument("after", metavar="B", help="the other one")
    diff.add_argument(
        "--json", action="store_true", help="show both values of every key that differs, as JSON"
    )


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
    """Replace the file in one step: a reader sees all of the old one or all of the new."""
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
