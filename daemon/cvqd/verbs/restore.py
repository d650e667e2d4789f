"""``cvqd restore``: have an instance go on from a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.verbs import instances
from cvqd.verbs.failure import InputError
from cvqd.verbs.snapshot import read

if TYPE_CHECKING:
    import argparse

    from cvqd.verbs import Verbs

#: bytes; a control request has room for these, not for the largest snapshot
MOST: Final = 1 << 20


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    restore = verbs.add_parser(
        "restore",
        help="have an instance's next start continue from a snapshot",
        description="Have the next start of an instance's device continue from a snapshot, as if the driver"
        " that left that state came back, whatever its rings look like. A driver that resets the device"
        " first, or that took other features, begins anew.",
        epilog="Exit status: 0 the state waits for a driver; 65 the file is not a snapshot, or the device or"
        " the site's policy does not allow that state; 66 the file cannot be read; 69 no such instance runs;"
        " 75 a guest's driver is running; 77 no permission to ask.",
    )
    restore.set_defaults(verb=_restore)
    instances.choose(restore, one=True)
    restore.add_argument("file", metavar="FILE", help="a file that `snapshot take` wrote")


def _restore(options: argparse.Namespace) -> int:
    from base64 import b64encode

    from cvqd.client.control import ask
    from cvqd.errors import SnapshotError
    from cvqd.wire.snapshot import decode

    (path,) = instances.control_sockets(options)
    data = read(options.file)
    if len(data) > MOST:
        raise InputError(options.file, f"{len(data)} bytes are more than a request may have, {MOST}")
    try:
        decode(data)
    except SnapshotError as error:
        # the instance would say so too, but could not name the file
        raise InputError(options.file, str(error)) from error
    ask(path, "restore", snapshot=b64encode(data).decode())
    return 0
