"""A dry move asks the target and changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cvqd.owner import devices
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import SUPPORTED_BACKEND_FEATURES, SimulatorSpec
from kit.two_devices import DRY_PHASES, HOME, NO_RESUME, SPARE, busy, rehearse, two, well

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("resumes", [True, False])
async def test_a_dry_move_asks_and_changes_nothing(tmp_path: Path, *, resumes: bool) -> None:
    backend = SUPPORTED_BACKEND_FEATURES if resumes else NO_RESUME
    async with two(tmp_path, replace(SPARE, mac=HOME, backend_features=backend)) as (rig, guest):
        await busy(guest)
        source = rig.device
        answer = await rehearse(rig, dry=True, times=2)
        for move in answer["moves"]:
            assert move["verdict"] == "passed"
            assert [each["phase"] for each in move["phases"]] == DRY_PHASES
            assert move["digest_after"] == move["digest_before"] == rig.owner.state.digest()
            assert move["blackout_us"] > 0
        assert rig.device is source
        assert len(rig.log.of("device.resumed")) == (2 if resumes else 0)
        assert len(rig.log.of("state.replayed")) == (0 if resumes else 4), "said by the events"
        assert not rig.log.of("device.failed"), "what a device cannot do it is not asked for"
        await well(guest)


async def test_a_dry_move_to_a_device_that_would_not_do_says_why_and_resumes(tmp_path: Path) -> None:
    async with two(tmp_path, spare=SimulatorSpec(max_queue_pairs=2, mtu=1400)) as (rig, guest):
        (move,) = (await rehearse(rig, dry=True))["moves"]
        assert (move["verdict"], move["phase"], move["guest_on"]) == ("failed", "compare", "source")
        assert "mtu" in move["reason"]
        await well(guest)


class ResumesDataOnly(SimulatedDevice):
    """As ``mlx5_vdpa``: a suspend makes the control queue unready, and a resume leaves it so."""

    async def suspend(self) -> None:
        await super().suspend()
        self.net.set_enabled(self.spec.queue_count - 1, enabled=False)


async def test_a_device_that_resumes_without_its_control_queue_is_told_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "SimulatedDevice", ResumesDataOnly)
    async with two(tmp_path) as (rig, guest):
        await busy(guest)
        assert (await rehearse(rig, dry=True))["verdict"] == "passed"
        assert len(rig.log.of("device.resumed")) == 1
        await well(guest)
