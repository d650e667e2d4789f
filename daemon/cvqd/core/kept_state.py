"""A driver's life as records and back: the base of a state log, and the fold of what follows it.

State is kept as a list of commands: the base holds those that lead to it
(``state_commands``), and the commands acknowledged since then follow.

Expired commands are left out.  The guest was told ERR, and if the device did
execute one, its effect ends with this process: the next one begins by resetting
the device.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.core.state_commands import folded, state_commands
from cvqd.errors import GuestError, SnapshotError
from cvqd.wire.net_control import decode
from cvqd.wire.state_log import Kind, LogError, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvqd.core.tracked import TrackedState
    from cvqd.wire.net_control import Command

#: guest features, the life's first address, announcement pending
_LIFE: Final = struct.Struct("<Q6s?")


class KeptState(NamedTuple):
    """What a restart needs to know of a driver's life.

    ``guest_features`` are those that the guest took (a driver cannot change them within its life),
    ``mac`` is the address that it began with.
    """

    guest_features: int
    mac: bytes
    state: TrackedState

    def base(self) -> list[Record]:
        """The records that describe this state completely."""
        life = _LIFE.pack(self.guest_features, self.mac, self.state.announce)
        return [
            Record(Kind.LIFE, 0, life),
            *(Record(Kind.COMMAND, 0, command.encode()) for command in state_commands(self.state)),
        ]


def fold(records: Sequence[Record]) -> KeptState | None:
    """The life in the records of one half, None if it is over; LogError if they describe none.

    The device executes commands in the order of submission, but one that was answered late stands
    later in the log: hence the sort.
    """
    if any(record.kind == Kind.ENDED for record in records):
        return None
    if not records or records[0].kind != Kind.LIFE or len(records[0].data) != _LIFE.size:
        raise LogError("it has no beginning")
    guest_features, mac, announce = _LIFE.unpack(records[0].data)
    commands = [_command(record) for record in sorted(records[1:], key=lambda record: record.sequence)]
    try:
        state = folded(commands, announce=announce)
    except SnapshotError as error:
        raise LogError(str(error)) from None
    return KeptState(guest_features, mac, state)


def _command(record: Record) -> Command:
    if record.kind != Kind.COMMAND:
        raise LogError(f"a record of kind {record.kind}")
    try:
        return decode(record.data)
    except GuestError as error:
        raise LogError(f"a command that is none: {error}") from None
