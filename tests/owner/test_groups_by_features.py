"""A device whose groups follow the features that were negotiated: ``mlx5_vdpa`` is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cvqd.core.isolation import Verdict
from cvqd.owner import devices
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import SimulatorSpec
from cvqd.wire.virtio import Feature, control_queue_index
from kit.rig import Rig

if TYPE_CHECKING:
    from pathlib import Path


class GroupsByFeatures(SimulatedDevice):
    """``mlx5_vdpa_get_vq_group``: until MQ is negotiated the control queue is ring 2."""

    async def get_vring_group(self, index: int) -> int:
        negotiated = self.net.negotiation.features
        return int(index == control_queue_index(negotiated, self.spec.max_queue_pairs))


@pytest.mark.parametrize("declined", [0, Feature.MQ.mask], ids=["MQ", "no MQ"])
async def test_the_control_queue_is_isolated_where_it_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declined: int
) -> None:
    monkeypatch.setattr(devices, "SimulatedDevice", GroupsByFeatures)
    async with Rig.opened(tmp_path, SimulatorSpec(max_queue_pairs=3)) as rig:
        assert rig.owner.current.isolation.verdict is Verdict.ISOLATED
        assert rig.device.net.negotiation.status == 0, "a look leaves nothing behind"
        async with rig.guest(features=rig.features & ~declined) as guest:
            await guest.start()
            await guest.set_mac()
        assert len(rig.log.of("isolation.verdict")) == 1
