"""A running guest goes from one device to another: what it keeps, and where it is when something fails."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from cvqd.migration import Migration
from cvqd.simulator.spec import SimulatorSpec
from cvqd.wire.net_control import (
    Coalescing,
    CoalVqSet,
    MacTableSet,
    RxMode,
    RxModeSet,
    VlanAdd,
    VqPairsSet,
)
from rig import BROADCAST, MAC_A, MAC_B, Guest, Rig, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

HOME = bytes.fromhex("525400127601")
ELSEWHERE = bytes.fromhex("525400127602")
GROUP = bytes.fromhex("01005e000001")
#: a device of the same kind with another address of its own
SPARE = SimulatorSpec(mac=ELSEWHERE, max_queue_pairs=2)
PHASES = ["prepare", "suspend", "indices", "replay", "start"]


@asynccontextmanager
async def two(
    directory: Path,
    spec: SimulatorSpec | None = None,
    spare: SimulatorSpec = SPARE,
    order: str = "qemu",
    *,
    shape: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Rig, Guest]]:
    """A guest that runs on ``device``, with ``spare`` to go to."""
    async with (
        Rig.opened(directory, spec, targets={"spare": spare}, **options) as rig,
        rig.guest(order, **(shape or {})) as guest,
    ):
        await guest.start()
        guest.driver.fill(0)
        yield rig, guest


async def rehearse(rig: Rig, to: str = "spare", **words: Any) -> dict[str, Any]:
    answer = await rig.rehearsals.rehearse({"to": to, **words})
    # it goes over a socket
    return json.loads(json.dumps(answer))  # type: ignore[no-any-return]


async def well(guest: Guest) -> None:
    """Frames go out and come back, a command is answered and does what it says."""
    mac = MAC_B if guest.rig.owner.state.mac == MAC_A else MAC_A
    await guest.set_mac(mac)
    guest.driver.fill(0)
    assert await guest.echo(frame(mac, b"to myself"))
    assert await guest.echo(frame(BROADCAST, b"to all"))


async def test_what_a_guest_changes_while_the_target_is_prepared_goes_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path) as (rig, guest):
        prepare = Migration._prepare

        async def with_a_busy_guest(*arguments: Any) -> None:
            await prepare(*arguments)
            assert await guest.command(VlanAdd(9).encode()) == 0

        monkeypatch.setattr(Migration, "_prepare", with_a_busy_guest)
        (move,) = (await rehearse(rig))["moves"]
        assert move["digest_before"] == move["digest_after"] == rig.owner.state.digest()
        assert rig.log.of("switchover.started")[0]["digest"] != move["digest_before"]
        assert rig.device.net.control.state.vlans == {9}


async def test_the_log_says_what_runs_on_the_target(tmp_path: Path) -> None:
    async with two(tmp_path) as (rig, _):
        (before,) = rig.log.of("device.started")
        await rehearse(rig)
        after = rig.log.of("device.started")[1]
        assert (after["rings"], after["pairs"]) == (before["rings"], before["pairs"])
        assert rig.log.names()[-3:] == ["device.started", "switchover.finished", "rehearsal.finished"]


async def test_a_guest_takes_everything_along(tmp_path: Path) -> None:
    async with two(tmp_path) as (rig, guest):
        source = rig.device
        await guest.set_mac(MAC_A)
        for command in (
            RxModeSet(RxMode.PROMISC, 0),
            MacTableSet((), (GROUP,)),
            VqPairsSet(2),
            VlanAdd(5),
            VlanAdd(7),
            CoalVqSet(0, Coalescing(7, 9)),
        ):
            assert await guest.command(command.encode()) == 0
        assert await guest.echo(frame(MAC_A, b"before"))
        before = rig.owner.state
        answer = await rehearse(rig)
        assert answer["verdict"] == "passed"
        assert rig.device is not source
        assert rig.log.device == "spare"
        assert rig.owner.state == before
        control = rig.device.net.control.state
        assert (control.mac, control.modes, control.multicast) == (MAC_A, set(), frozenset({GROUP}))
        assert (control.vlans, control.pairs) == ({5, 7}, 2)
        assert control.coalescing(0) == Coalescing(7, 9)
        guest.driver.fill(0)
        fates = {
            name: await guest.echo(sent)
            for name, sent in {
                "own": frame(MAC_A, b"1"),
                "group": frame(GROUP, b"2"),
                "other group": frame(bytes.fromhex("01005e000002"), b"3"),
                "other": frame(MAC_B, b"4"),
                "vlan": frame(MAC_A, b"5", vlan=7),
                "other vlan": frame(MAC_A, b"6", vlan=8),
            }.items()
        }
        assert fates == {
            "own": True,
            "group": True,
            "other group": False,
            "other": False,
            "vlan": True,
            "other vlan": False,
        }
        await well(guest)
