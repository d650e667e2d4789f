"""The README's table of control commands: each cell shows what a part of the code did with an example."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from cvqd.core.policy import Policy, Route
from cvqd.core.restore import replay, replay_running
from cvqd.core.tracked import TrackedState
from cvqd.errors import GuestError
from cvqd.simulator.control import Control
from cvqd.simulator.spec import SimulatorSpec
from cvqd.wire.net_control import (
    ACK,
    COMMANDS,
    OK,
    AnnounceAck,
    Coalescing,
    CoalRxSet,
    CoalTxSet,
    CoalVqGet,
    CoalVqSet,
    GuestOffloadsSet,
    HashConfig,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxMode,
    RxModeSet,
    StatsGet,
    StatsQuery,
    StatsRequest,
    StatsType,
    VlanAdd,
    VlanDel,
    VqPairsSet,
    decode,
)
from cvqd.wire.virtio import Feature
from kit.command_examples import EVERYTHING, REFUSED

if TYPE_CHECKING:
    from cvqd.wire.net_control import Command

SPEC = SimulatorSpec(max_queue_pairs=4)
FEATURES = SPEC.offered_features
#: command, and what has to be acknowledged before it so that it has something to change
EXAMPLES: tuple[tuple[Command, Command | None], ...] = (
    (RxModeSet(RxMode.PROMISC, 0), None),
    *((RxModeSet(mode, 1), None) for mode in RxMode if mode is not RxMode.PROMISC),
    (MacAddrSet(b"\2\0\0\0\0\1"), None),
    (MacTableSet((b"\2\0\0\0\0\1",), (b"\3\0\0\0\0\1",)), None),
    (VlanAdd(5), None),
    (VlanDel(5), VlanAdd(5)),
    (AnnounceAck(), None),
    (VqPairsSet(2), None),
    (RssConfig(1, 1, 0, (0, 1), 2, b"key"), None),
    (HashConfig(1, b"key"), None),
    (GuestOffloadsSet(Feature.GUEST_CSUM.mask), None),
    (CoalTxSet(Coalescing(8, 50)), None),
    (CoalRxSet(Coalescing(8, 50)), None),
    (CoalVqSet(1, Coalescing(8, 50)), None),
    (CoalVqGet(1), None),
    (StatsQuery(), None),
    (StatsGet((StatsRequest(0, StatsType.RX_BASIC.mask),)), None),
)
ASKS = "asks only"


def table() -> list[str]:
    """One row per command that the wire knows."""
    columns = (
        "command",
        "needs",
        "parsed: bytes",
        "judged by, beside its feature",
        "relayed: answer",
        "tracked as",
        "replayed as",
        "obeyed by the simulator as",
    )
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for command, before in EXAMPLES:
        cells = (
            f"`{command.name}`",
            feature(command),
            parsed(command),
            judged(command),
            relayed(command),
            tracked(command, before),
            replayed(command, before),
            obeyed(command, before),
        )
        assert all(cells), f"an empty cell for {command.name}: {cells}"
        rows.append(f"| {' | '.join(cells)} |")
    assert {command.name for command, _ in EXAMPLES} == {command.name for command in COMMANDS}
    return rows


def feature(command: Command) -> str:
    """What it has to be negotiated with; without that it is refused."""
    assert command.feature is not None
    without = dataclasses.replace(EVERYTHING, features=EVERYTHING.features & ~command.feature.mask)
    assert _refusal(without, command) == "command.not_negotiated"
    return command.feature.name


def parsed(command: Command) -> str:
    """Its length on the wire, with ``…`` where it varies."""
    data = command.encode()
    assert decode(data) == command
    shortest = next(other for other in COMMANDS if other.name == command.name)
    return f"{len(shortest.encode())}{'…' if len(shortest.encode()) != len(data) or _varies(command) else ''}"


def _varies(command: Command) -> bool:
    """Whether another number of bytes, stepwise, is the same command too."""
    data = command.encode()
    for more in (2, 6, 16):
        try:
            decode(data + bytes(more))
        except GuestError:
            continue
        return True
    return False


def judged(command: Command) -> str:
    """Rules that refuse it, found by breaking them."""
    rules = {rule for broken, rule in REFUSED if broken.name == command.name}
    for broken, rule in REFUSED:
        if broken.name == command.name:
            assert _refusal(EVERYTHING, broken) == rule
    if isinstance(command, RxModeSet):
        assert _refusal(EVERYTHING, RxModeSet(command.mode, 2)) == "rx.value"
        rules.add("rx.value")
    if isinstance(command, AnnounceAck):
        assert _refusal(dataclasses.replace(EVERYTHING, announces=True), command) == "announce.not_asked"
        rules.add("announce.not_asked")
    return ", ".join(f"`{rule}`" for rule in sorted(rules)) or "its length"


def _refusal(policy: Policy, command: Command) -> str | None:
    try:
        policy.judge(command, TrackedState(bytes(6)))
    except GuestError as error:
        return error.reason
    return None


def relayed(command: Command) -> str:
    """Who answers, how much, and whether it lets those before it finish."""
    assert EVERYTHING.judge(command, TrackedState(bytes(6))) is Route.DEVICE
    result = command.answer_length - ACK
    answer = "ack" if not result else f"ack + {result}{'…' if isinstance(command, StatsGet) else ''}"
    return f"{answer}, waits" if Policy.waits(command) else answer


def tracked(command: Command, before: Command | None) -> str:
    """Fields of the tracked state that it changes."""
    start = _before(before)
    end = start.after(command)
    changed = [name for name, old, new in zip(end._fields, start, end, strict=True) if old != new]
    return ", ".join(f"`{name}`" for name in changed) or ASKS


def replayed(command: Command, before: Command | None) -> str:
    """Commands that put its effect into a device after a reset."""
    start = _before(before)
    end = start.after(command)
    if end == start:
        return ASKS
    said = [*replay(end, FEATURES), *replay_running(end, FEATURES)]
    own = [each for each in said if each.name == command.name]
    if not own:
        gone = [each.name for each in replay(start, FEATURES) if each not in said]
        return f"saying no `{gone[0]}`" if gone else "the bit in the config space" if start.announce else ""
    fold = TrackedState.after_reset(bytes(6), FEATURES)._replace(announce=end.announce)
    for each in said:
        fold = fold.after(each)
    assert fold == end
    return ", ".join(f"`{each.name}`" for each in own) + (
        ", when its queue runs" if own[0] in replay_running(end, FEATURES) else ""
    )


def _before(command: Command | None) -> TrackedState:
    state = TrackedState.after_reset(bytes(6), FEATURES)._replace(announce=True)
    return state if command is None else state.after(command)


def obeyed(command: Command, before: Command | None) -> str:
    """Fields of the simulator's state that it changes, or the bytes that it answers."""
    control = Control(SPEC)
    control.negotiated(FEATURES)
    control.state.announce = True
    if before is not None:
        assert control.execute(before.encode()) == OK
    old = _fields(control)
    answer = control.answer(command.encode())
    assert answer[0] == OK, f"{command.name} is not obeyed"
    new = _fields(control)
    changed = [name for name in old if old[name] != new[name]]
    return ", ".join(f"`{name}`" for name in changed) or (f"{len(answer) - ACK} bytes" if answer[1:] else "")


def _fields(control: Control) -> dict[str, str]:
    state = control.state
    return {field.name: repr(getattr(state, field.name)) for field in dataclasses.fields(state)}
