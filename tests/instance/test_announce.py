"""Events that the guest has to see: asked to announce itself, link up and down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cvqd.errors import RequestError
from cvqd.owner import devices
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import SimulatorSpec, default_features
from cvqd.wire.net_config import OFFSET_STATUS, LinkStatus
from cvqd.wire.net_control import ERR, OK, AnnounceAck
from cvqd.wire.vhost_user import BackRequest
from cvqd.wire.virtio import Feature, mask_of
from kit.rig import Rig, settled

if TYPE_CHECKING:
    from pathlib import Path

ACK = AnnounceAck().encode()
NEITHER = mask_of(Feature.STATUS, Feature.GUEST_ANNOUNCE)
#: the device announces by itself; the device has no such feature; it has not even a status
OFFERS = [
    default_features(2),
    default_features(2) & ~Feature.GUEST_ANNOUNCE.mask,
    default_features(2) & ~NEITHER,
]


async def link_status(guest) -> int:
    return int.from_bytes(await guest.front_end.get_config(OFFSET_STATUS, 2), "little")


async def told(guest) -> None:
    assert await guest.front_end.backend_request() is BackRequest.CONFIG_CHANGE_MSG


@pytest.mark.parametrize("features", OFFERS, ids=["own", "emulated", "no status"])
async def test_a_guest_is_asked_once_and_acknowledges_once(tmp_path: Path, features: int) -> None:
    spec = SimulatorSpec(max_queue_pairs=2, features=features)
    async with Rig.opened(tmp_path, spec) as rig, rig.guest("uml") as guest:
        await guest.front_end.open_channel(pipe=True)
        await guest.start()
        assert await link_status(guest) == LinkStatus.LINK_UP
        assert await guest.command(ACK) == ERR, "nobody asked"

        await rig.backend.announce()
        await told(guest)
        assert await link_status(guest) == LinkStatus.LINK_UP | LinkStatus.ANNOUNCE
        assert rig.status["state"]["announce"] is True
        assert rig.log.of("announce.raised")[-1]["digest"] == rig.status["state"]["digest"]

        assert await guest.command(ACK) == OK
        assert await link_status(guest) == LinkStatus.LINK_UP
        assert rig.status["state"]["announce"] is False
        assert await guest.command(ACK) == ERR


async def test_one_acknowledgement_answers_the_devices_request_and_ours(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path) as rig, rig.guest("uml") as guest:
        await guest.front_end.open_channel()
        await guest.start()
        await rig.backend.announce()
        await told(guest)
        rig.device.announce()
        await told(guest)
        assert await link_status(guest) & LinkStatus.ANNOUNCE
        assert await guest.command(ACK) == OK
        assert rig.device.net.control.state.announce is False
        assert await link_status(guest) == LinkStatus.LINK_UP


async def test_a_request_of_the_devices_that_is_pending_is_not_doubled(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path) as rig, rig.guest("uml") as guest:
        await guest.front_end.open_channel()
        await guest.start()
        rig.device.announce()
        await told(guest)
        await rig.backend.announce()
        await told(guest)
        assert await guest.command(ACK) == OK
        assert await link_status(guest) == LinkStatus.LINK_UP
        assert await guest.command(ACK) == ERR


async def test_an_unanswered_request_ends_with_its_driver_and_survives_a_mere_stop(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path) as rig, rig.guest("crosvm") as guest:
        await guest.front_end.open_channel()
        await guest.start()
        await guest.set_mac()
        await rig.backend.announce()
        await guest.stop()
        await guest.start()
        assert await link_status(guest) & LinkStatus.ANNOUNCE, "crosvm goes on where it stopped"
        await guest.stop()
        guest.driver.restart()
        await guest.start()
        assert not await link_status(guest) & LinkStatus.ANNOUNCE


async def test_where_no_guest_would_see_it_the_operator_is_told(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path) as rig:
        with pytest.raises(RequestError, match="no guest's driver is running"):
            await rig.backend.announce()
        async with rig.guest("qemu") as guest:
            with pytest.raises(RequestError, match="no guest's driver is running"):
                await rig.backend.announce()
            await guest.start()
            with pytest.raises(RequestError, match="the front-end cannot be told"):
                await rig.backend.announce()
        async with rig.guest("qemu-net") as guest:
            await guest.start()
            with pytest.raises(RequestError, match="did not take CTRL_VQ"):
                await rig.backend.announce()
        declined = rig.features & ~Feature.GUEST_ANNOUNCE.mask
        async with rig.guest("uml", features=declined) as guest:
            await guest.front_end.open_channel()
            await guest.start()
            with pytest.raises(RequestError, match="did not take GUEST_ANNOUNCE"):
                await rig.backend.announce()


async def test_a_cable_pulled_out_and_put_back_reaches_the_guest(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path) as rig, rig.guest("uml") as guest:
        await guest.front_end.open_channel()
        await guest.start()
        for up in (False, True):
            rig.device.set_link(up=up)
            await told(guest)
            assert await link_status(guest) == (LinkStatus.LINK_UP if up else 0)
            await settled()
            assert rig.log.of("device.config_changed")[-1]["status"] == int(up)


class ForgetsItsListener(SimulatedDevice):
    """A reset unbinds the configuration's eventfd: ``vduse_dev_reset``, ``pds_vdpa_set_status``."""

    async def set_status(self, status: int) -> None:
        await super().set_status(status)
        if status == 0:
            await self.set_config_call(-1)


async def test_a_device_that_forgets_who_listens_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "SimulatedDevice", ForgetsItsListener)
    spec = SimulatorSpec(max_queue_pairs=2)
    async with Rig.opened(tmp_path, spec, targets={"spare": spec}) as rig, rig.guest() as guest:
        await guest.start()
        for seen in (1, 2):
            rig.device.set_link(up=False)
            await settled()
            assert len(rig.log.of("device.config_changed")) == seen
            await rig.rehearsals.rehearse({"to": "spare" if seen == 1 else "device"})
