"""A state written down as commands, for whoever keeps or carries it, and back.

``restore`` says how a certain device is brought to a state; here a state is
said completely, whatever any device offers, and without a device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.core.tracked import TrackedState
from cvqd.errors import SnapshotError
from cvqd.wire.net_control import (
    Command,
    GuestOffloadsSet,
    MacAddrSet,
    MacTableSet,
    RxMode,
    RxModeSet,
    VlanAdd,
    VqPairsSet,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cvqd.wire.snapshot import Snapshot


def state_commands(state: TrackedState) -> tuple[Command, ...]:
    """Commands that say the whole state but the announce bit, which no command sets.

    ``widened`` is not said: it is how one device gives what the tables ask for.
    """
    return tuple(_state_commands(state))


def folded(commands: Iterable[Command], *, announce: bool) -> TrackedState:
    """State that the commands lead to; SnapshotError for one that no guest's commands lead to.

    ``announce`` is the announce bit before the first of them.
    """
    state = TrackedState(bytes(6), announce=announce)
    for command in commands:
        # a command's data has room for more than there is
        if isinstance(command, VlanAdd) and command.vid > 4095:
            raise SnapshotError(f"VLAN {command.vid} is above 4095")
        state = state.after(command)
    return state


def carried(snapshot: Snapshot) -> TrackedState:
    """State in a snapshot; SnapshotError where its commands do not lead to its digest."""
    state = folded(snapshot.commands, announce=snapshot.announce)
    if (found := state.digest()) != snapshot.digest:
        raise SnapshotError(f"its commands lead to {found} and not to {snapshot.digest}")
    return state


def _state_commands(state: TrackedState) -> Iterator[Command]:
    yield MacAddrSet(state.mac)
    for mode in RxMode:
        # what the first is after a reset is not specified
        if state.rx >> mode & 1 or mode <= RxMode.ALLMULTI:
            yield RxModeSet(mode, state.rx >> mode & 1)
    if state.unicast or state.multicast:
        yield MacTableSet(state.unicast, state.multicast)
    # before a table: the number of pairs ends steering by one
    if state.pairs != 1:
        yield VqPairsSet(state.pairs)
    if state.hashing is not None:
        yield state.hashing
    if state.offloads:
        yield GuestOffloadsSet(state.offloads)
    yield from state.coalescing.global_commands()
    yield from state.coalescing.queue_commands()
    for vid in state.vlan_ids():
        yield VlanAdd(vid)
