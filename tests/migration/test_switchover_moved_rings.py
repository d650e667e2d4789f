"""Targets that have used the rings before they fail: no frame is sent twice."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from cvqd.errors import DeviceError
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import CallFault, Fault, FaultAction, PeerPath, SimulatorSpec, default_features
from cvqd.wire.net_control import Coalescing, CoalVqSet
from cvqd.wire.virtio import Feature, Status
from kit.rig import BROADCAST, frame, jumping_clock, settled
from kit.two_devices import ELSEWHERE, HASHING, HOME, LATE, SPARE, moving, rehearse, two, waiting, well

if TYPE_CHECKING:
    from pathlib import Path

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
