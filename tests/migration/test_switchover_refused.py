"""Moves that are given up before the guest notices: what can be known in advance."""

from __future__ import annotations

import errno
import gc
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from cvqd.core import lifecycle
from cvqd.errors import RequestError
from cvqd.owner import shadow_memory as shadow
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
from cvqd.telemetry.move import Move
from cvqd.testing.events import EventRecorder
from cvqd.wire.net_control import MacAddrSet
from cvqd.wire.vhost_vdpa import Backend
from cvqd.wire.virtio import Feature
from kit.rig import BROADCAST, MAC_A, Rig, frame, jumping_clock, open_descriptors, settled
from kit.two_devices import HOME, NO_RESUME, SPARE, rehearse, two, well

if TYPE_CHECKING:
    from pathlib import Path

    from cvqd.core.device import VdpaDevice
    from cvqd.core.lifecycle import DeviceFacts


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
            assert "only device, spare" in move["reason"]


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
