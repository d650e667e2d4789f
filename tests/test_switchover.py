"""A running guest goes from one device to another: what it keeps, and where it is when something fails."""

from __future__ import annotations

import errno
import gc
import json
import os
import socket
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from cvqd import run, shadow
from cvqd.core import lifecycle
from cvqd.errors import DeviceError, RequestError
from cvqd.launch import Launch
from cvqd.migration import Migration
from cvqd.move import Move
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import (
    SUPPORTED_BACKEND_FEATURES,
    CallFault,
    Fault,
    FaultAction,
    PeerPath,
    SimulatorSpec,
    default_features,
)
from cvqd.testing.events import EventRecorder
from cvqd.wire.net_config import OFFSET_STATUS
from cvqd.wire.net_control import (
    Coalescing,
    CoalVqSet,
    MacAddrSet,
    MacTableSet,
    RxMode,
    RxModeSet,
    VlanAdd,
    VqPairsSet,
)
from cvqd.wire.vhost_user import BackRequest, DescriptorKind
from cvqd.wire.vhost_vdpa import Backend
from cvqd.wire.virtio import Feature, Status, mask_of
from rig import BROADCAST, MAC_A, MAC_B, Guest, Rig, frame, jumping_clock, open_descriptors, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cvqd.core.device import VdpaDevice
    from cvqd.core.lifecycle import DeviceFacts
    from cvqd.host.doorbell import Doorbell

HOME = bytes.fromhex("525400127601")
ELSEWHERE = bytes.fromhex("525400127602")
GROUP = bytes.fromhex("01005e000001")
#: a device of the same kind with another address of its own
SPARE = SimulatorSpec(mac=ELSEWHERE, max_queue_pairs=2)
STATS = Feature.DEVICE_STATS.mask
HASHING = mask_of(Feature.HASH_REPORT, Feature.RSS)
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
        guest.driver.fill(0, 16)
        yield rig, guest


async def rehearse(rig: Rig, to: str = "spare", **words: Any) -> dict[str, Any]:
    answer = await rig.rehearsals.rehearse({"to": to, **words})
    # it goes over a socket
    return json.loads(json.dumps(answer))  # type: ignore[no-any-return]


async def well(guest: Guest) -> None:
    """Frames go out and come back, a command is answered and does what it says."""
    mac = MAC_B if guest.rig.owner.state.mac == MAC_A else MAC_A
    await guest.set_mac(mac)
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


@pytest.mark.parametrize("packed", [False, True])
async def test_rings_go_on_where_they_stood(tmp_path: Path, *, packed: bool) -> None:
    features = default_features(2) | Feature.RING_PACKED.mask
    spec = SimulatorSpec(features=features, max_queue_pairs=2)
    taken = features & ~Feature.ACCESS_PLATFORM.mask & ~Feature.HASH_REPORT.mask
    taken = taken if packed else taken & ~Feature.RING_PACKED.mask
    shape = {"features": taken, "num": 32}
    async with two(tmp_path, spec, replace(spec, mac=ELSEWHERE), shape=shape) as (rig, guest):
        for turn in range(13):
            for _ in range(turn % 3 + 1):
                assert await guest.echo(frame(BROADCAST, bytes([turn])))
            before = {ring.index: ring.base for ring in rig.device.net.rings[:2]}
            (move,) = (await rehearse(rig, "device" if turn % 2 else "spare"))["moves"]
            assert move["verdict"] == "passed"
            assert {ring.index: ring.base for ring in rig.device.net.rings[:2]} == before
            assert await guest.command(MacAddrSet(MAC_A).encode()) == 0


async def test_no_two_devices_listen_to_one_kick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kick that wakes the source too may be all that the guest gives until the next answer."""
    bind, bound = SimulatedDevice.set_vring_kick, []

    async def noted(device: SimulatedDevice, index: int, fd: int) -> None:
        bound.append((device.path, index, fd >= 0))
        await bind(device, index, fd)

    async with two(tmp_path) as (rig, guest):
        source = rig.device.path
        monkeypatch.setattr(SimulatedDevice, "set_vring_kick", noted)
        assert (await rehearse(rig))["verdict"] == "passed"
        for index in sorted(rig.owner.running):
            assert bound.index((source, index, False)) < bound.index(("spare", index, True))
        await well(guest)


async def test_calls_that_are_no_eventfds_keep_their_bridge(tmp_path: Path) -> None:
    shape = {"call_kind": DescriptorKind.SOCKET}
    async with two(tmp_path, order="uml", shape=shape) as (rig, guest):
        bridged = rig.backend.bridged
        assert bridged
        await rehearse(rig)
        assert rig.backend.bridged == bridged
        await well(guest)


async def test_descriptors_that_came_while_the_guest_ran_are_the_ones_that_move(tmp_path: Path) -> None:
    async with two(tmp_path) as (rig, guest):
        await well(guest)
        for queue in guest.driver.queues:
            old = queue.kick, queue.call
            queue.kick, queue.call = (os.eventfd(0, os.EFD_NONBLOCK) for _ in old)
            queue._call_end = queue.call
            await guest.front_end.set_vring_kick(queue.index, queue.kick)
            await guest.front_end.set_vring_call(queue.index, queue.call)
            for fd in old:
                os.close(fd)
        await rehearse(rig)
        await well(guest)


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


async def test_moves_leave_no_descriptor_and_no_mapping_behind(tmp_path: Path) -> None:
    async with two(tmp_path) as (rig, guest):
        await rehearse(rig, back=True)
        gc.collect()
        before = open_descriptors(), mappings()
        answer = await rehearse(rig, back=True, times=10)
        assert answer["verdict"] == "passed"
        gc.collect()
        assert (open_descriptors(), mappings()) == before
        await well(guest)


def mappings() -> int:
    """Shadow memories of this process."""
    return Path("/proc/self/maps").read_text().count("cvqd-shadow")


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


# what can be known before the guest notices


@pytest.mark.parametrize(
    ("spare", "reason"),
    [
        (SimulatorSpec(max_queue_pairs=1), "MQ is not offered"),
        (SimulatorSpec(max_queue_pairs=2, mtu=1400), "mtu: 1400 is less than the guest's 1500"),
        (
            SimulatorSpec(max_queue_pairs=2, features=default_features(2) & ~Feature.CTRL_VLAN.mask),
            "CTRL_VLAN is not offered",
        ),
        (
            replace(SPARE, backend_features=SUPPORTED_BACKEND_FEATURES & ~Backend.SUSPEND.mask),
            "spare has no SUSPEND",
        ),
        (replace(SPARE, address_spaces=1), "1 address space"),
        (replace(SPARE, call_faults=(CallFault("set_features"),)), "VHOST_SET_FEATURES"),
        (replace(SPARE, call_faults=(CallFault("iotlb"),)), "IOTLB"),
        (replace(SPARE, datapath=PeerPath("/nowhere/at/all", "/nowhere")), "bind"),
    ],
)
async def test_a_target_that_will_not_do_is_refused_and_the_guest_notices_nothing(
    tmp_path: Path, spare: SimulatorSpec, reason: str
) -> None:
    async with two(tmp_path, spare=spare) as (rig, guest):
        source = rig.device
        (move,) = (await rehearse(rig))["moves"]
        assert (move["verdict"], move["phase"], move["guest_on"]) == ("refused", "prepare", "source")
        assert reason in move["reason"]
        assert move["blackout_us"] == 0
        assert rig.device is source
        assert rig.log.of("switchover.failed")[0]["phase"] == "prepare"
        assert not rig.log.of("device.suspended")
        await well(guest)


def test_what_never_stopped_serving_was_not_dark() -> None:
    move = Move(EventRecorder(), "switchover", "device", "spare", "")
    move.serves()
    assert move.blackout_us == 0


@pytest.mark.parametrize("lacking", ["device", "spare"])
async def test_a_device_that_knows_no_ring_indices_is_refused_by_name(
    tmp_path: Path, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path) as (rig, guest):
        if lacking == "device":
            rig.owner.current.facts = replace(rig.owner.current.facts, keeps_indices=False)
        else:
            inspect = lifecycle.inspect

            async def without(device: VdpaDevice) -> DeviceFacts:
                return replace(await inspect(device), keeps_indices=False)

            monkeypatch.setattr(lifecycle, "inspect", without)
        (move,) = (await rehearse(rig))["moves"]
        path = {"device": "simulator"}.get(lacking, lacking)
        assert move["verdict"] == "refused"
        assert f"{path} has no ring indices" in move["reason"]
        await well(guest)


async def test_what_cannot_even_begin_is_refused_with_a_reason(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, targets={"spare": SPARE}) as rig:
        with pytest.raises(RequestError, match="no guest's driver is running"):
            await rehearse(rig)
        async with rig.guest() as guest:
            await guest.start()
            for words, reason in (
                ({"to": "device"}, "the guest is on 'device'"),
                ({"to": 3}, "is a name"),
                ({"times": 2}, "has to come back"),
                ({"times": 0, "back": True}, "1 to 1000"),
                ({"times": True, "back": True}, "1 to 1000"),
                ({"back": "yes"}, "true or false"),
            ):
                with pytest.raises(RequestError, match=reason):
                    await rehearse(rig, **{"to": "spare"} | words)
            (move,) = (await rehearse(rig, "nobody"))["moves"]
            assert (move["verdict"], move["phase"]) == ("refused", "prepare")
            assert "there is device, spare" in move["reason"]


@jumping_clock
async def test_a_device_that_owes_an_answer_is_not_left(tmp_path: Path) -> None:
    async with two(tmp_path) as (rig, guest):
        rig.device.faults.add(Fault("mac.addr_set", FaultAction.DROP))
        assert await guest.command(MacAddrSet(MAC_A).encode()) != 0
        (move,) = (await rehearse(rig))["moves"]
        assert move["verdict"] == "refused"
        assert "uncertain" in move["reason"]


@jumping_clock
@pytest.mark.parametrize("resumes", [True, False])
async def test_a_command_that_expires_on_the_way_out_keeps_the_guest_where_it_is(
    tmp_path: Path, *, resumes: bool
) -> None:
    backend = SUPPORTED_BACKEND_FEATURES if resumes else NO_RESUME
    async with two(tmp_path, replace(SPARE, mac=HOME, backend_features=backend)) as (rig, guest):
        rig.device.faults.add(Fault("mac.addr_set", FaultAction.DROP))
        head = guest.driver.post_command(MacAddrSet(MAC_A).encode())
        guest.control.notify()
        await settled()
        (move,) = (await rehearse(rig))["moves"]
        assert (move["verdict"], move["phase"], move["guest_on"]) == ("failed", "suspend", "source")
        # the device never stopped
        assert move["blackout_us"] == 0
        assert len(rig.log.of("device.opened")) == 2
        assert not rig.log.of("device.suspended")
        assert len(rig.log.of("state.reset") + rig.log.of("state.replayed")) == 1
        assert guest.driver.take_ack(head) == 1
        guest.control.poll()
        assert rig.owner.running
        assert await guest.echo(frame(BROADCAST, b"to all"))


# failures on the way: the guest is on the source or on the target, never on neither

NO_RESUME = SUPPORTED_BACKEND_FEATURES & ~Backend.RESUME.mask
LATE = SUPPORTED_BACKEND_FEATURES & ~Backend.ENABLE_AFTER_DRIVER_OK.mask
SOURCE_FAILS = [
    ("suspend", CallFault("suspend")),
    ("indices", CallFault("get_vring_base", after=1)),
    ("indices", CallFault("get_vring_base", after=2)),
]
TARGET_FAILS = [
    ("replay", {"call_faults": (CallFault("set_vring_num"),)}),
    ("replay", {"call_faults": (CallFault("set_vring_addr", after=1),)}),
    ("replay", {"call_faults": (CallFault("set_vring_base", after=2),)}),
    ("replay", {"call_faults": (CallFault("set_vring_kick"),)}),
    # one reset to look at it, four calls to negotiate in advance, four to negotiate
    ("replay", {"call_faults": (CallFault("set_status", after=5),)}),
    ("replay", {"call_faults": (CallFault("set_status", after=9),)}),
    ("replay", {"faults": (Fault("mac.addr_set", FaultAction.ERR),)}),
    ("replay", {"faults": (Fault("vlan.add", FaultAction.ERR),)}),
    ("replay", {"faults": (Fault("mac.addr_set", FaultAction.DROP),)}),
    # the control queue's is the first
    ("start", {"call_faults": (CallFault("set_vring_enable", after=1),)}),
    ("start", {"call_faults": (CallFault("set_vring_enable", after=2),)}),
    ("start", {"faults": (Fault("notf_coal.vq_set", FaultAction.ERR),)}),
]
WAYS_BACK = {
    "resumed": {},
    "started again": {"backend_features": NO_RESUME},
    "started again after a resume that failed": {"call_faults": (CallFault("resume"),)},
    "with queues that cannot be enabled late": {"backend_features": LATE},
}


async def busy(guest: Guest) -> None:
    """State and rings that a move has to take along."""
    await guest.set_mac(MAC_A)
    for command in (VlanAdd(5), CoalVqSet(0, Coalescing(3, 0)), RxModeSet(RxMode.PROMISC, 0)):
        assert await guest.command(command.encode()) == 0
    assert await guest.echo(frame(MAC_A, b"before"))


async def stays(rig: Rig, guest: Guest, phase: str) -> None:
    """The guest is on the source as if nothing had happened, and the log says which phase failed."""
    before, source = rig.owner.state, rig.device
    (move,) = (await rehearse(rig))["moves"]
    assert (move["verdict"], move["phase"], move["guest_on"]) == ("failed", phase, "source"), move
    assert rig.log.of("switchover.failed")[-1]["phase"] == phase
    assert rig.device is source
    assert rig.owner.state == before
    control = rig.device.net.control.state
    assert (control.mac, control.vlans, control.modes) == (before.mac, {5}, set())
    assert control.coalescing(0) == Coalescing(3, 0)
    assert rig.owner.run is not None
    await well(guest)
    assert not await guest.echo(frame(bytes.fromhex("525400cc0003"), b"to another"))


@pytest.mark.parametrize("way", WAYS_BACK)
@pytest.mark.parametrize(("phase", "fault"), SOURCE_FAILS)
async def test_a_source_that_fails_keeps_its_guest(
    tmp_path: Path, phase: str, fault: CallFault, way: str
) -> None:
    spec = replace(SPARE, mac=HOME, **WAYS_BACK[way])
    spec = replace(spec, call_faults=(*spec.call_faults, fault))
    async with two(tmp_path, spec) as (rig, guest):
        await busy(guest)
        await stays(rig, guest, phase)
        assert (await rehearse(rig))["verdict"] == "passed", "the next time nothing fails"
        await well(guest)


@pytest.mark.bad_day(
    "the device that a guest is moved to fails on the way",
    guest="a pause; it stays where it was",
    log="switchover.failed",
)
@jumping_clock
@pytest.mark.parametrize("way", WAYS_BACK)
@pytest.mark.parametrize(("phase", "faults"), TARGET_FAILS)
async def test_a_target_that_fails_gives_the_guest_back(
    tmp_path: Path, phase: str, faults: dict[str, Any], way: str
) -> None:
    spec = replace(SPARE, mac=HOME, **WAYS_BACK[way])
    async with two(tmp_path, spec, replace(SPARE, **faults)) as (rig, guest):
        await busy(guest)
        for _ in range(2):
            await stays(rig, guest, phase)
        assert len(rig.log.of("switchover.failed")) == 2


#: how a target that will not do may also refuse to say where it stopped
SILENT = {
    "says where": (),
    "will not suspend": (CallFault("suspend"),),
    # the first ring is asked when the target is inspected
    "will not say where": (CallFault("get_vring_base", after=1),),
}


@jumping_clock
@pytest.mark.parametrize("phase", ["replay", "start"])
@pytest.mark.parametrize("silent", SILENT)
@pytest.mark.parametrize("frames", [0, 3])
async def test_a_target_that_has_moved_the_rings_gives_them_back_where_they_stand(
    tmp_path: Path, frames: int, silent: str, phase: str
) -> None:
    """The target sends frames while its last command waits for an answer; none of them is sent twice."""
    path = PeerPath(str(tmp_path / "left"), str(tmp_path / "right"))
    spec = SimulatorSpec(datapath=path, mac=HOME)
    fault = Fault("notf_coal.vq_set" if phase == "start" else "mac.addr_set", FaultAction.DROP)
    spare = replace(spec, mac=ELSEWHERE, faults=(fault,), call_faults=SILENT[silent])
    if phase == "replay":
        # its data queues run while the state is put back
        spare = replace(spare, backend_features=LATE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as far:
        far.bind(path.connect)
        async with two(tmp_path, spec, spare) as (rig, guest):
            assert await guest.command(CoalVqSet(0, Coalescing(3, 0)).encode()) == 0
            answers = []
            async with trio.open_nursery() as nursery:

                async def go() -> None:
                    answers.append(await rehearse(rig))

                nursery.start_soon(go)
                await settled()
                for turn in range(frames):
                    guest.driver.send_frame(frame(BROADCAST, bytes([turn])))
            (move,) = answers[0]["moves"]
            assert (move["phase"], move["guest_on"]) == (phase, "source")
            assert len(rig.log.of("device.resumed")) == (0 if frames else 1)
            guest.driver.send_frame(frame(BROADCAST, b"last"))
            await settled()
            arrived = []
            with suppress(BlockingIOError):
                while True:
                    arrived.append(far.recv(2048))
            assert arrived == [
                *(frame(BROADCAST, bytes([turn])) for turn in range(frames)),
                frame(BROADCAST, b"last"),
            ]


@jumping_clock
async def test_a_target_that_does_not_say_whether_it_runs_may_have_moved_the_rings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, asked = SimulatedDevice.get_status, []

    async def once(device: SimulatedDevice) -> int:
        found = await status(device)
        if device.path == "spare" and found & Status.DRIVER_OK:
            asked.append(found)
            if len(asked) == 2:
                raise DeviceError("VHOST_VDPA_GET_STATUS", errno.EIO)
        return found

    spare = replace(SPARE, backend_features=LATE, faults=waiting("replay"))
    async with two(tmp_path, spare=spare) as (rig, guest), trio.open_nursery() as nursery:
        monkeypatch.setattr(SimulatedDevice, "get_status", once)
        await moving(rig, guest, nursery, "replay")
        sent = frame(BROADCAST, b"to all")
        assert await guest.echo(sent)
        await trio.sleep(2)
        assert len(asked) == 2
        assert not rig.log.of("device.resumed")
        await settled()
        assert sent not in guest.driver.received_frames(0)
        await well(guest)


@jumping_clock
@pytest.mark.parametrize("silent", SILENT)
async def test_packed_rings_that_a_target_may_have_moved_are_not_gone_on_with_where_they_stood(
    tmp_path: Path, silent: str
) -> None:
    """Only the target knows: if it does not say, its guest's connection ends, and no frame is sent twice."""
    path = PeerPath(str(tmp_path / "left"), str(tmp_path / "right"))
    spec = SimulatorSpec(datapath=path, mac=HOME, features=default_features(1) | Feature.RING_PACKED.mask)
    fault = Fault("notf_coal.vq_set", FaultAction.DROP)
    spare = replace(spec, mac=ELSEWHERE, faults=(fault,), call_faults=SILENT[silent])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as far:
        far.bind(path.connect)
        shape = {"features": spec.features & ~Feature.ACCESS_PLATFORM.mask & ~HASHING}
        async with two(tmp_path, spec, spare, shape=shape) as (rig, guest):
            assert await guest.command(CoalVqSet(0, Coalescing(3, 0)).encode()) == 0
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rehearse, rig)
                await settled()
                guest.driver.send_frame(frame(BROADCAST, b"once"))
            await settled()
            assert rig.log.of("switchover.failed")[0]["phase"] == "start"
            assert not rig.log.of("device.resumed")
            assert far.recv(2048) == frame(BROADCAST, b"once")
            if silent == "says where":
                guest.driver.send_frame(frame(BROADCAST, b"last"))
                await settled()
                assert far.recv(2048) == frame(BROADCAST, b"last")
            else:
                assert rig.log.of("switchover.failed")[0]["guest_on"] == "neither"
                (gone,) = rig.log.of("frontend.disconnected")
                assert "nobody knows" in str(gone["reason"])
            with pytest.raises(BlockingIOError):
                far.recv(2048)


@jumping_clock
async def test_a_source_that_cannot_take_its_guest_back_is_tried_once_more(tmp_path: Path) -> None:
    # the features are taken at negotiation, at the start, and not when it is to start again
    spec = replace(SPARE, mac=HOME, call_faults=(CallFault("resume"), CallFault("set_features", after=2)))
    spare = replace(SPARE, faults=(Fault("mac.addr_set", FaultAction.ERR),))
    async with two(tmp_path, spec, spare) as (rig, guest):
        await busy(guest)
        answer = await rehearse(rig)
        (move,) = answer["moves"]
        assert (move["verdict"], move["phase"], move["guest_on"]) == ("failed", "replay", "neither")
        assert answer["guest_on"] is None
        assert "VHOST_SET_FEATURES" in move["reason"]
        assert "mac.addr_set" in move["reason"]
        await settled()
        assert rig.owner.running, "the guest's kicks had it started again"
        await well(guest)


class NoDescriptors:
    """Runs that cannot be made for want of descriptors: so many from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, runs: int) -> None:
        self._left = runs
        self._make = run.Doorbell
        monkeypatch.setattr(run, "Doorbell", self)

    def __call__(self) -> Doorbell:
        if self._left:
            self._left -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._make()


@pytest.mark.parametrize("way", ["resumed", "started again"])
async def test_a_target_that_there_is_no_descriptor_for_gives_the_guest_back(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path, replace(SPARE, mac=HOME, **WAYS_BACK[way])) as (rig, guest):
        await busy(guest)
        NoDescriptors(monkeypatch, 1)
        await stays(rig, guest, "replay")
        assert "Too many open files" in rig.log.of("switchover.failed")[0]["reason"]
        assert rig.log.of("rehearsal.finished")[0]["verdict"] == "failed"
        assert (await rehearse(rig))["verdict"] == "passed", "there are some again"


@jumping_clock
@pytest.mark.parametrize("dry", [False, True])
async def test_a_guest_that_there_is_no_descriptor_for_is_on_neither_until_it_kicks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, dry: bool
) -> None:
    spec = replace(SPARE, mac=HOME, backend_features=NO_RESUME)
    async with two(tmp_path, spec) as (rig, guest):
        await busy(guest)
        NoDescriptors(monkeypatch, 1 if dry else 2)
        answer = await rehearse(rig, dry=dry)
        (move,) = answer["moves"]
        assert (answer["verdict"], answer["guest_on"], move["guest_on"]) == ("failed", None, "neither")
        reason = rig.log.of("switchover.failed")[0]["reason"]
        assert reason.count("Too many open files") == (1 if dry else 2), reason
        await well(guest)


@jumping_clock
async def test_whatever_error_ends_a_move_the_guests_next_kick_has_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SPARE, mac=HOME, backend_features=NO_RESUME)
    spare = replace(SPARE, faults=(Fault("mac.addr_set", FaultAction.ERR),))

    async def broken(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    async with two(tmp_path, spec, spare) as (rig, guest):
        await busy(guest)
        monkeypatch.setattr(Launch, "start_again", broken)
        with pytest.raises(RuntimeError, match="a mistake of ours"):
            await rehearse(rig)
        assert rig.log.of("rehearsal.finished")[0]["verdict"] == "failed"
        await well(guest)


async def test_a_target_that_cannot_be_inspected_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path) as (rig, guest):
        gc.collect()
        before = open_descriptors()
        with monkeypatch.context() as patch:

            def none(*_: object) -> None:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

            patch.setattr(shadow.shared_memory, "create", none)
            (move,) = (await rehearse(rig))["moves"]
        assert (move["verdict"], move["phase"]) == ("refused", "prepare")
        assert "Cannot allocate memory" in move["reason"]
        gc.collect()
        assert open_descriptors() == before
        await well(guest)


async def test_a_target_that_is_given_up_while_it_is_inspected_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path) as (rig, guest), trio.open_nursery() as nursery:
        gc.collect()
        before = open_descriptors()
        with monkeypatch.context() as patch:
            close = SimulatedDevice.aclose

            async def in_its_time(device: SimulatedDevice) -> None:
                await trio.lowlevel.checkpoint()
                await close(device)

            async def for_ever(_: VdpaDevice) -> None:
                await trio.sleep_forever()

            patch.setattr(SimulatedDevice, "aclose", in_its_time)
            patch.setattr(lifecycle, "inspect", for_ever)
            nursery.start_soon(rehearse, rig)
            await settled()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await settled()
        gc.collect()
        assert open_descriptors() == before
        with trio.CancelScope(shield=True):
            await well(guest)


@jumping_clock
async def test_a_front_end_that_leaves_between_two_moves_ends_the_rehearsal(tmp_path: Path) -> None:
    async with two(tmp_path) as (rig, guest):
        answers = []
        async with trio.open_nursery() as nursery:

            async def go() -> None:
                answers.append(await rehearse(rig, back=True))

            nursery.start_soon(go)
            await settled()
            assert rig.log.of("switchover.finished")
            guest.front_end.close()
        (answer,) = answers
        assert (answer["verdict"], answer["reason"]) == ("failed", "no front-end is connected")
        assert [move["verdict"] for move in answer["moves"]] == ["passed"]
        assert answer["guest_on"] is None
        assert rig.log.of("rehearsal.finished")[0]["verdict"] == "failed"


async def test_a_move_of_a_guest_that_does_not_run_forgets_no_kick(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, targets={"spare": SPARE}) as rig, rig.guest():
        await settled()
        conversation = rig.backend._conversation
        assert conversation is not None
        conversation._idle.rang()
        move = Move(rig.log, "switchover", "device", "spare", "")
        await rig.backend.move(lambda: move, rig.rehearsals._carry_out)
        assert move.refused
        assert conversation._idle.kicked


@jumping_clock
async def test_a_rehearsal_that_is_cut_short_has_not_passed(tmp_path: Path) -> None:
    async with two(tmp_path) as (rig, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(rehearse, rig, back=True))
            await settled()
            assert rig.log.of("switchover.finished")
            nursery.cancel_scope.cancel()
        (finished,) = rig.log.of("rehearsal.finished")
        assert (finished["moves"], finished["failed"], finished["verdict"]) == (1, 0, "failed")


@pytest.mark.parametrize("takes", [True, False])
async def test_tables_that_one_device_takes_and_the_other_does_not(tmp_path: Path, *, takes: bool) -> None:
    """The target is told to receive everything, fails, and the source has the tables it took before."""
    fault = Fault("notf_coal.vq_set", FaultAction.ERR)
    small = replace(SPARE, mac_table_entries=0, faults=() if takes else (fault,))
    async with two(tmp_path, spare=small) as (rig, guest):
        each = CoalVqSet(0, Coalescing(3, 0))
        for command in (RxModeSet(RxMode.PROMISC, 0), MacTableSet((), (GROUP,)), each):
            assert await guest.command(command.encode()) == 0
        assert not rig.owner.state.widened
        (move,) = (await rehearse(rig))["moves"]
        assert move["guest_on"] == ("target" if takes else "source")
        assert rig.owner.state.widened is takes
        assert (RxMode.PROMISC in rig.device.net.control.state.modes) is takes
        assert await guest.echo(frame(GROUP, b"group"))


@jumping_clock
@pytest.mark.parametrize("phase", ["suspend", "replay"])
async def test_a_front_end_that_leaves_meanwhile_is_let_go_when_the_move_is_over(
    tmp_path: Path, phase: str
) -> None:
    async with two(tmp_path, spare=replace(SPARE, faults=waiting(phase))) as (rig, guest):
        async with trio.open_nursery() as nursery:
            await moving(rig, guest, nursery, phase)
            guest.front_end.close()
        await settled()
        assert rig.log.of("frontend.disconnected")
        assert not rig.owner.running
        assert rig.log.of("switchover.failed")[0]["phase"] == phase
        async with rig.guest() as another:
            await another.start()
            another.driver.fill(0, 16)
            await well(another)


@jumping_clock
@pytest.mark.parametrize("phase", ["suspend", "replay"])
async def test_a_daemon_that_ends_in_the_middle_takes_the_guest_back_first(
    tmp_path: Path, phase: str
) -> None:
    spare = replace(SPARE, faults=waiting(phase))
    async with two(tmp_path, spare=spare, deadline=2) as (rig, guest), trio.open_nursery() as nursery:
        await moving(rig, guest, nursery, phase)
        assert await ending(rig, nursery) <= 2.1
        assert not rig.owner.running
        assert rig.log.of("switchover.failed")[0]["guest_on"] == "source"
        assert [event["reason"] for event in rig.log.of("device.stopped")] == ["the daemon ends"]


@jumping_clock
async def test_a_device_that_is_removed_meanwhile_is_not_waited_for(tmp_path: Path) -> None:
    async with two(tmp_path, deadline=60) as (rig, guest), trio.open_nursery() as nursery:
        await moving(rig, guest, nursery, "suspend")
        rig.owner.ends(0.5)
        assert 0.5 <= await ending(rig, nursery) < 0.6
        assert not rig.owner.running


@jumping_clock
async def test_a_daemon_that_ends_meanwhile_takes_its_interrupt_back_from_where_the_guest_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent: dict[str, int] = {}
    lend = SimulatedDevice.set_config_call

    async def noted(device: SimulatedDevice, fd: int) -> None:
        lent[device.path] = fd
        await lend(device, fd)

    monkeypatch.setattr(SimulatedDevice, "set_config_call", noted)
    slow = replace(SPARE, faults=(Fault("mac.addr_set", FaultAction.DELAY, 0.5),))
    async with two(tmp_path, spare=slow) as (rig, guest), trio.open_nursery() as nursery:
        await moving(rig, guest, nursery, "replay")
        await ending(rig, nursery)
    assert rig.owner.current.name == "spare"
    assert lent["spare"] == -1


async def ending(rig: Rig, nursery: trio.Nursery) -> float:
    """End the service's tasks and what goes on in a nursery; how many seconds that takes."""
    begun = trio.current_time()
    nursery.cancel_scope.cancel()
    rig.ends()
    with trio.CancelScope(shield=True):
        await rig.ended.wait()
    return trio.current_time() - begun


def waiting(phase: str) -> tuple[Fault, ...]:
    """What has the spare leave a move waiting in its replay."""
    return (Fault("mac.addr_set", FaultAction.DROP),) if phase == "replay" else ()


async def moving(rig: Rig, guest: Guest, nursery: trio.Nursery, phase: str) -> None:
    """A move that waits for a device: for the source in ``suspend``, for the target in ``replay``."""
    if phase == "suspend":
        rig.device.faults.add(Fault("mac.addr_set", FaultAction.DROP))
        guest.driver.post_command(MacAddrSet(MAC_A).encode())
        guest.control.notify()
        await settled()
    else:
        await guest.set_mac()
    nursery.start_soon(rehearse, rig)
    await settled()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("who", ["rehearsal", "daemon"])
async def test_whoever_ends_meanwhile_ends_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str, phase: str
) -> None:
    gc.collect()
    before = open_descriptors(), mappings()
    await cut_short(tmp_path, monkeypatch, who, phase)
    gc.collect()
    assert (open_descriptors(), mappings()) == before


async def cut_short(directory: Path, monkeypatch: pytest.MonkeyPatch, who: str, phase: str) -> None:
    """A whole life, with a move in whose ``phase`` the rehearsal or all of the daemon is cancelled."""
    entered: list[str] = []
    timed = Move.phase
    async with two(directory) as (rig, guest):
        with monkeypatch.context() as patch:
            async with trio.open_nursery() as nursery:

                @contextmanager
                def at_which_it_ends(move: Move, name: str) -> Iterator[None]:
                    with timed(move, name):
                        entered.append(name)
                        if name == phase:
                            nursery.cancel_scope.cancel()
                            if who == "daemon":
                                rig.ends()
                        yield

                patch.setattr(Move, "phase", at_which_it_ends)
                nursery.start_soon(rehearse, rig)
        assert entered in (PHASES[:1], PHASES), "what the guest notices is done in full"
        if who == "rehearsal":
            await well(guest)
    assert not rig.owner.running
    assert not rig.owner.current.mappings.mapped(0)


# without moving


@pytest.mark.parametrize("resumes", [True, False])
async def test_a_dry_move_asks_and_changes_nothing(tmp_path: Path, *, resumes: bool) -> None:
    backend = SUPPORTED_BACKEND_FEATURES if resumes else NO_RESUME
    async with two(tmp_path, replace(SPARE, mac=HOME, backend_features=backend)) as (rig, guest):
        await busy(guest)
        source = rig.device
        answer = await rehearse(rig, dry=True, times=2)
        for move in answer["moves"]:
            assert move["verdict"] == "passed"
            assert [each["phase"] for each in move["phases"]] == ["suspend", "snapshot", "compare", "resume"]
            assert move["digest_after"] == move["digest_before"] == rig.owner.state.digest()
            assert move["blackout_us"] > 0
        assert rig.device is source
        assert len(rig.log.of("device.resumed")) == (2 if resumes else 0)
        assert len(rig.log.of("state.replayed")) == (0 if resumes else 4), "said by the events"
        await well(guest)


async def test_a_dry_move_to_a_device_that_would_not_do_says_why_and_resumes(tmp_path: Path) -> None:
    async with two(tmp_path, spare=SimulatorSpec(max_queue_pairs=2, mtu=1400)) as (rig, guest):
        (move,) = (await rehearse(rig, dry=True))["moves"]
        assert (move["verdict"], move["phase"], move["guest_on"]) == ("failed", "compare", "source")
        assert "mtu" in move["reason"]
        await well(guest)
