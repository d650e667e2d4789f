"""A state as a list of commands, to be stored or sent, and back.

``restore`` brings one particular device to a state.  The lists here describe a
state completely, whatever features a device has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.core.tracked import TrackedState
from cvqd.errors import SnapshotError
from cvqd.wire.net_control import (
    CoalRxSet,
    CoalTxSet,
    CoalVqSet,
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
    """Commands that lead to the state, except for the announce bit, which no command sets.

    ``widened`` is left out: it is one device's way to provide what the tables ask for.
    """
    return tuple(_state_commands(state))


def folded(commands: Iterable[Command], *, announce: bool) -> TrackedState:
    """State that the commands lead to; SnapshotError for a command that no guest could have had accepted.

    ``announce`` is the announce bit before the first of them.
    """
    state = TrackedState(bytes(6), announce=announce)
    # together: a snapshot may have any number of queues, and one by one each costs as much as there are
    coalescing: list[CoalTxSet | CoalRxSet | CoalVqSet] = []
    for command in commands:
        if isinstance(command, CoalTxSet | CoalRxSet | CoalVqSet):
            coalescing.append(command)
            continue
        # the field is 16 bits wide, VLAN ids are 12
        if isinstance(command, VlanAdd) and command.vid > 4095:
            raise SnapshotError(f"VLAN {command.vid} is above 4095")
        state = state.after(command)
    return state._replace(coalescing=state.coalescing.after(*coalescing))


def carried(snapshot: Snapshot) -> TrackedState:
    """State in a snapshot; SnapshotError if its commands do not lead to its digest."""
    state = folded(snapshot.commands, announce=snapshot.announce)
    if (found := state.digest()) != snapshot.digest:
        raise SnapshotError(f"its commands lead to {found} and not to {snapshot.digest}")
    return state


def _state_commands(state: TrackedState) -> Iterator[Command]:
    yield MacAddrSet(state.mac)
    for mode in RxMode:
        # the values of PROMISC and ALLMULTI after a reset are not specified
        if state.rx >> mode & 1 or mode <= RxMode.ALLMULTI:
            yield RxModeSet(mode, state.rx >> mode & 1)
    if state.unicast or state.multicast:
        yield MacTableSet(state.unicast, state.multicast)
    # before the hashing: VQ_PAIRS_SET would end RSS steering
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
