"""A driver's life as records and back: the base of a state log, and the fold of what follows it.

State is a list of commands: a base holds those that say it (``state_commands``),
and what the device acknowledged since comes behind them.

Commands that expired are not in it.  Their guest was told ERR, and what the
device may have made of them ends with the process that owned it: the next one
begins with a reset.
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
    ``mac`` is the address it began with.
    """

    guest_features: int
    mac: bytes
    state: TrackedState

    def base(self) -> list[Record]:
        """Records that say all of it."""
        life = _LIFE.pack(self.guest_features, self.mac, self.state.announce)
        return [
            Record(Kind.LIFE, 0, life),
            *(Record(Kind.COMMAND, 0, command.encode()) for command in state_commands(self.state)),
        ]


def fold(records: Sequence[Record]) -> KeptState | None:
    """The life that the records of one half tell, None for one that is over; LogError for no life at all.

    The device executes in the order of submission, and an answer that came late stands
    further behind in the log than it belongs.
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
