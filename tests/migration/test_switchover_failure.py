"""Devices that fail on the way: the guest stays on the source, or is on neither until its next kick."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cvqd.owner import run
from cvqd.owner.launch import Launch
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import CallFault, Fault, FaultAction
from cvqd.wire.net_control import Coalescing, CoalVqSet, MacTableSet, RxMode, RxModeSet
from kit.rig import Guest, Rig, frame, jumping_clock, settled
from kit.two_devices import GROUP, HOME, NO_RESUME, SPARE, WAYS_BACK, busy, rehearse, two, well

if TYPE_CHECKING:
    from pathlib import Path

    from cvqd.host.doorbell import Doorbell

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
    # six calls to look at it, four to negotiate in advance, four to negotiate
    ("replay", {"call_faults": (CallFault("set_status", after=10),)}),
    ("replay", {"call_faults": (CallFault("set_status", after=14),)}),
    ("replay", {"faults": (Fault("mac.addr_set", FaultAction.ERR),)}),
    ("replay", {"faults": (Fault("vlan.add", FaultAction.ERR),)}),
    ("replay", {"faults": (Fault("mac.addr_set", FaultAction.DROP),)}),
    # the control queue's is the first
    ("start", {"call_faults": (CallFault("set_vring_enable", after=1),)}),
    ("start", {"call_faults": (CallFault("set_vring_enable", after=2),)}),
    ("start", {"faults": (Fault("notf_coal.vq_set", FaultAction.ERR),)}),
]


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


@pytest.mark.parametrize("way", WAYS_BACK)
async def test_a_target_that_does_not_say_the_address_it_was_given_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    read = SimulatedDevice.get_config

    async def of_its_own(device: SimulatedDevice, offset: int, length: int) -> bytes:
        config = await read(device, offset, length)
        return SPARE.mac + config[6:] if device.path == "spare" else config

    async with two(tmp_path, replace(SPARE, mac=HOME, **WAYS_BACK[way])) as (rig, guest):
        await busy(guest)
        monkeypatch.setattr(SimulatedDevice, "get_config", of_its_own)
        await stays(rig, guest, "replay")
        assert (
            "52:54:00:12:76:02 after 52:54:00:aa:00:01 was set"
            in rig.log.of("switchover.failed")[0]["reason"]
        )


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


async def test_a_guest_whose_control_queue_is_kept_comes_back_with_its_pairs(tmp_path: Path) -> None:
    spec = replace(SPARE, mac=HOME, backend_features=NO_RESUME)
    spare = replace(SPARE, call_faults=(CallFault("set_vring_num"),))
    async with two(tmp_path, spec, spare, order="qemu-net") as (rig, guest):
        for index in range(4):
            await guest.front_end.set_vring_enable(index, enable=True)
        (move,) = (await rehearse(rig))["moves"]
        assert (move["verdict"], move["guest_on"]) == ("failed", "source")
        assert rig.owner.state.pairs == rig.device.net.control.state.pairs == 2


@jumping_clock
async def test_a_source_that_cannot_take_its_guest_back_is_tried_once_more(tmp_path: Path) -> None:
    # the features are taken for a look, at negotiation, at the start, and not when it is to start again
    spec = replace(SPARE, mac=HOME, call_faults=(CallFault("resume"), CallFault("set_features", after=3)))
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
