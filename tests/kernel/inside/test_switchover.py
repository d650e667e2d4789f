"""A running guest goes from one kernel device to another, and between one and the simulator."""

from __future__ import annotations

import json
import subprocess
from contextlib import asynccontextmanager

import pytest
import trio

from cvqd.config.device import CharDevice
from cvqd.simulator.spec import SimulatorSpec
from cvqd.wire.net_control import OK, MacAddrSet, VqPairsSet
from cvqd.wire.virtio import Feature, mask_of
from kit.rig import Rig

pytestmark = pytest.mark.timeout(120)

BROADCAST = b"\xff" * 6
ADDRESSES = [bytes.fromhex(f"525411abcd{last:02x}") for last in (0x11, 0x22)]
#: the kernel's device keeps the last address that any test gave it: no test gives it this one
STRANGER = bytes.fromhex("5254cafecafe")
#: what the kernel's simulator offers
FEATURES = mask_of(
    Feature.MTU,
    Feature.MAC,
    Feature.STATUS,
    Feature.CTRL_VQ,
    Feature.CTRL_MAC_ADDR,
    Feature.ANY_LAYOUT,
    Feature.VERSION_1,
    Feature.ACCESS_PLATFORM,
)
VDPA0, VDPA1 = CharDevice(path="/dev/vhost-vdpa-0"), CharDevice(path="/dev/vhost-vdpa-1")
SIMULATOR = SimulatorSpec(features=FEATURES)


@asynccontextmanager
async def running(directory, device, target):
    opened = Rig.opened(directory, device, targets={"spare": target}, patience=100)
    async with opened as rig, rig.guest("qemu") as guest:
        await guest.start()
        guest.driver.fill(0, 32)
        yield rig, guest


async def back(guest, destination, payload, pair=0):
    """A frame that the device's loopback lets in; one that it does not is sent first, and overtaken."""
    frame = (destination + STRANGER + b"\x88\xb5" + payload).ljust(60, b"\0")
    guest.driver.send_frame((STRANGER + frame[6:]).ljust(60, b"\0"), pair)
    guest.driver.send_frame(frame, pair)
    with trio.fail_after(10):
        assert await guest.driver.receive_frame(pair) == frame


def kernels_address(name):
    shown = subprocess.run(
        ["vdpa", "-j", "dev", "config", "show", name], check=True, capture_output=True, text=True
    )
    return json.loads(shown.stdout)["config"][name]["mac"]


@pytest.mark.parametrize(
    ("device", "target"),
    [(VDPA0, VDPA1), (SIMULATOR, VDPA0), (VDPA0, SIMULATOR)],
    ids=["kernel to kernel", "simulator to kernel", "kernel to simulator"],
)
async def test_a_guest_goes_there_and_back(tmp_path, device, target):
    async with running(tmp_path, device, target) as (rig, guest):
        for turn, mac in enumerate(ADDRESSES):
            assert await guest.command(MacAddrSet(mac).encode()) == OK
            for sent in range(20):
                await back(guest, mac, b"%d %d" % (turn, sent))
            answer = await rig.rehearsals.rehearse({"to": "spare"})
            assert answer["verdict"] == "passed", answer
            assert rig.owner.current.name == "spare"
            if target is VDPA1:
                assert kernels_address("vdpa1") == mac.hex(":")
            await back(guest, mac, b"there")
            assert await guest.command(MacAddrSet(ADDRESSES[turn - 1]).encode()) == OK
            await back(guest, ADDRESSES[turn - 1], b"and again")
            answer = await rig.rehearsals.rehearse({"to": "device", "back": True, "times": 2})
            assert [move["verdict"] for move in answer["moves"]] == ["passed"] * 4, answer
            assert {move["digest_after"] for move in answer["moves"]} == {rig.owner.state.digest()}
            answer = await rig.rehearsals.rehearse({"to": "device"})
            assert answer["verdict"] == "passed", answer
            await back(guest, ADDRESSES[turn - 1], b"home")


async def test_pairs_go_along(tmp_path):
    four, as_many = CharDevice(path="/dev/vhost-vdpa-2"), CharDevice(path="/dev/vhost-vdpa-4")
    async with running(tmp_path, four, as_many) as (rig, guest):
        assert await guest.command(VqPairsSet(3).encode()) == OK
        answer = await rig.rehearsals.rehearse({"to": "spare"})
        assert answer["verdict"] == "passed", answer
        assert rig.owner.state.pairs == 3
        guest.driver.fill(2, 32)
        for pair in (0, 2):
            await back(guest, BROADCAST, b"pair %d" % pair, pair)


async def test_fewer_pairs_are_refused_by_name(tmp_path):
    async with running(tmp_path, CharDevice(path="/dev/vhost-vdpa-2"), VDPA1) as (rig, guest):
        (move,) = (await rig.rehearsals.rehearse({"to": "spare"}))["moves"]
        assert move["verdict"] == "refused"
        await back(guest, BROADCAST, b"still here")


async def test_a_dry_move_suspends_and_resumes_the_kernels_device(tmp_path):
    async with running(tmp_path, VDPA0, VDPA1) as (rig, guest):
        await back(guest, BROADCAST, b"before")
        answer = await rig.rehearsals.rehearse({"to": "spare", "dry": True, "times": 3})
        assert [move["verdict"] for move in answer["moves"]] == ["passed"] * 3, answer
        assert len(rig.log.of("device.resumed")) == 3
        await back(guest, BROADCAST, b"after")
        assert await guest.command(MacAddrSet(ADDRESSES[0]).encode()) == OK


async def test_a_target_that_another_has_is_refused_and_the_guest_stays(tmp_path):
    async with running(tmp_path, VDPA0, VDPA0) as (rig, guest):
        (move,) = (await rig.rehearsals.rehearse({"to": "spare"}))["moves"]
        assert move["verdict"] == "refused"
        assert "another process has it" in move["reason"] or "busy" in move["reason"]
        await back(guest, BROADCAST, b"still here")
