"""A running guest goes from one device to another and takes everything along."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from cvqd.migration import Migration
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import PeerPath, SimulatorSpec, default_features
from cvqd.wire.net_config import OFFSET_STATUS
from cvqd.wire.net_control import (
    AnnounceAck,
    Coalescing,
    CoalVqSet,
    MacTableSet,
    RxMode,
    RxModeSet,
    VlanAdd,
    VqPairsSet,
)
from cvqd.wire.vhost_user import BackRequest
from cvqd.wire.virtio import Feature
from kit.rig import BROADCAST, MAC_A, MAC_B, Rig, frame, settled
from kit.two_devices import ELSEWHERE, GROUP, HASHING, HOME, PHASES, SPARE, rehearse, two, well

if TYPE_CHECKING:
    from pathlib import Path

STATS = Feature.DEVICE_STATS.mask


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


@pytest.mark.parametrize("order", ["qemu", "crosvm", "uml", "libkrun"])
async def test_whatever_the_front_end_the_guest_goes_and_comes_back(tmp_path: Path, order: str) -> None:
    async with two(tmp_path, order=order) as (rig, guest):
        await well(guest)
        answer = await rehearse(rig, back=True, times=2)
        assert [(move["source"], move["target"]) for move in answer["moves"]] == [
            ("device", "spare"),
            ("spare", "device"),
        ] * 2
        assert {move["verdict"] for move in answer["moves"]} == {"passed"}
        assert (answer["guest_on"], rig.owner.current.name) == ("device", "device")
        await well(guest)


async def test_a_device_with_more_pairs_shows_the_guest_as_many_as_it_has(tmp_path: Path) -> None:
    async with two(tmp_path, spare=SimulatorSpec(mac=ELSEWHERE, max_queue_pairs=4)) as (rig, guest):
        assert (await rehearse(rig, back=True))["verdict"] == "passed"
        await rehearse(rig)
        assert rig.owner.current.offer.max_pairs == 2
        assert await guest.command(VqPairsSet(2).encode()) == 0
        await well(guest)


async def test_an_announcement_that_the_guest_owes_goes_along(tmp_path: Path) -> None:
    silent = SimulatorSpec(max_queue_pairs=2, features=default_features(2) & ~Feature.GUEST_ANNOUNCE.mask)
    async with two(tmp_path, silent, replace(silent, mac=ELSEWHERE)) as (rig, guest):
        rig.owner.announce()
        (move,) = (await rehearse(rig))["moves"]
        assert move["digest_before"] == move["digest_after"] == rig.owner.state.digest()
        assert rig.owner.state.announce
        assert await guest.command(AnnounceAck().encode()) == 0


async def test_a_guest_whose_control_queue_is_kept_goes_with_its_pairs(tmp_path: Path) -> None:
    async with two(tmp_path, order="qemu-net") as (rig, guest):
        for index in range(4):
            await guest.front_end.set_vring_enable(index, enable=True)
        await settled()
        assert rig.owner.state.pairs == 2
        await rehearse(rig)
        assert rig.device.net.control.state.pairs == 2
        assert RxMode.PROMISC in rig.device.net.control.state.modes
        assert await guest.echo(frame(BROADCAST, b"to all"))
        for index in (2, 3):
            await guest.front_end.set_vring_enable(index, enable=False)
        await settled()
        assert rig.device.net.control.state.pairs == 1


async def test_the_log_tells_the_move_from_beginning_to_end(tmp_path: Path) -> None:
    async with two(tmp_path) as (rig, guest):
        await guest.set_mac()
        await guest.command(VlanAdd(9).encode())
        digest = rig.owner.state.digest()
        rig.log.events.clear()
        answer = await rehearse(rig, back=True)
        there, back = answer["moves"]
        assert rig.log.of("rehearsal.started") == [
            {"rehearsal": answer["rehearsal"], "to": "spare", "times": 1, "back": True, "dry": False}
        ]
        assert rig.log.of("switchover.started")[0] == {
            "move": there["move"],
            "kind": "switchover",
            "source": "device",
            "target": "spare",
            "digest": digest,
        }
        told = [(event["move"], event["phase"]) for event in rig.log.of("switchover.phase")]
        assert told == [(move["move"], phase) for move in (there, back) for phase in PHASES]
        finished = rig.log.of("switchover.finished")
        assert finished[1] == {
            "move": back["move"],
            "kind": "switchover",
            "source": "spare",
            "target": "device",
            "blackout_us": back["blackout_us"],
            "commands": back["commands"],
            "digest_before": digest,
            "digest_after": digest,
        }
        assert there["blackout_us"] > 0
        assert there["commands"] >= 3
        assert rig.log.of("rehearsal.finished") == [
            {
                "rehearsal": answer["rehearsal"],
                "moves": 2,
                "failed": 0,
                "blackout_us": max(there["blackout_us"], back["blackout_us"]),
                "verdict": "passed",
            }
        ]
        assert [event["path"] for event in rig.log.of("device.suspended")] == ["simulator", "spare"]
        assert rig.log.of("device.resumed") == []


async def test_the_guests_address_stays_its_own_in_its_next_life(tmp_path: Path) -> None:
    async with two(tmp_path) as (rig, guest):
        await guest.set_mac(MAC_A)
        await rehearse(rig)
        await guest.stop()
        assert await guest.front_end.get_config(0, 6) == HOME
        guest.driver.restart()
        await guest.start()
        assert rig.device.net.control.state.mac == HOME
        guest.driver.fill(0, 16)
        assert await guest.echo(frame(HOME, b"to myself"))


async def test_commands_that_come_meanwhile_are_answered_once_each_and_none_is_lost(tmp_path: Path) -> None:
    async with two(tmp_path) as (rig, guest):
        acks = []

        async def chatter(task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            acks.extend([await guest.command(VlanAdd(vid).encode()) for vid in range(1, 200)])

        async with trio.open_nursery() as nursery:
            await nursery.start(chatter)
            answer = await rehearse(rig, back=True, times=3)
        assert answer["verdict"] == "passed"
        assert acks == [0] * 199
        assert set(rig.owner.state.vlan_ids()) == rig.device.net.control.state.vlans == set(range(1, 200))


async def test_the_end_of_a_cable_goes_along(tmp_path: Path) -> None:
    path = PeerPath(str(tmp_path / "left"), str(tmp_path / "right"))
    other = PeerPath(path.connect, path.bind)
    (tmp_path / "other").mkdir()
    here = two(tmp_path, SimulatorSpec(datapath=path), SimulatorSpec(datapath=path))
    there = two(tmp_path / "other", SimulatorSpec(datapath=other))
    async with here as (rig, guest), there as (_, far):
        for to in ("spare", "device", "spare"):
            assert (await rehearse(rig, to))["verdict"] == "passed"
            for sender, receiver in ((guest, far), (far, guest)):
                sent = frame(BROADCAST, to.encode())
                sender.driver.send_frame(sent)
                await settled()
                assert sent in receiver.driver.received_frames(0)


async def test_a_cable_that_is_pulled_at_the_target_is_news_for_the_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Rig.opened(tmp_path, targets={"spare": SPARE}) as rig, rig.guest("uml") as guest:
        await guest.front_end.open_channel()
        await guest.start()
        opened = SimulatedDevice.open

        async def pulled(*arguments: Any, **words: Any) -> SimulatedDevice:
            device = await opened(*arguments, **words)
            device.set_link(up=False)
            return device

        monkeypatch.setattr(SimulatedDevice, "open", pulled)
        await rehearse(rig)
        assert await guest.front_end.backend_request() is BackRequest.CONFIG_CHANGE_MSG
        assert await guest.front_end.get_config(OFFSET_STATUS, 2) == bytes(2)
        # and what happens to the cable from now on is the new device's to say
        rig.device.set_link(up=True)
        assert await guest.front_end.backend_request() is BackRequest.CONFIG_CHANGE_MSG
        assert await guest.front_end.get_config(OFFSET_STATUS, 2) == b"\1\0"


async def test_what_the_target_lacks_is_not_offered_to_the_next_driver(tmp_path: Path) -> None:
    spare = SimulatorSpec(mac=ELSEWHERE, max_queue_pairs=2, features=default_features(2) & ~STATS)
    shape = {"features": default_features(2) & ~STATS & ~Feature.ACCESS_PLATFORM.mask & ~HASHING}
    async with two(tmp_path, spare=spare, shape=shape) as (rig, guest):
        assert await guest.front_end.get_features() & STATS
        await rehearse(rig)
        assert not await guest.front_end.get_features() & STATS
        await rehearse(rig, "device")
        assert await guest.front_end.get_features() & STATS
        await well(guest)
