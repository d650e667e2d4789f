"""Where data rings go on: front-ends say bases that are not where the device can."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cvqd.simulator.spec import SimulatorSpec, default_features
from cvqd.testing.driver import GuestMemory
from cvqd.wire.virtio import Feature
from kit.rig import BROADCAST, CONTROL_FEATURES, Guest, Rig, frame

if TYPE_CHECKING:
    from pathlib import Path

    from cvqd.testing.steps import GuestSetup


def from_available(guest: Guest) -> GuestSetup:
    """As cloud-hypervisor sets its rings up: at the driver's index (``vu_common_ctrl.rs``)."""
    setup = guest.setup
    rings = [
        replace(ring, base=queue.ring.available_index)
        for ring, queue in zip(setup.rings, guest.driver.queues, strict=True)
    ]
    return setup._replace(rings=tuple(rings))


async def test_buffers_that_were_there_before_the_start_are_not_passed_over(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path) as rig, rig.guest("crosvm") as guest:
        guest.driver.fill()
        await guest.front_end.play(guest.order.start(from_available(guest)))
        await guest.front_end.get_features()
        assert await guest.echo(frame(BROADCAST))
        assert rig.log.of("ring.resumed") == [{"queue": 0, "base": 0, "said": 64}]


async def test_a_ring_goes_on_at_its_used_index_after_a_reconnection(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path) as rig, rig.guest("crosvm", memory=GuestMemory()) as guest:
        await guest.start()
        guest.driver.fill(buffers=8)
        for _ in range(3):
            assert await guest.echo(frame(BROADCAST))
        guest.front_end.close()
        async with guest.behind(rig) as back:
            # 8 buffers, and the three that came back were posted again
            await back.front_end.play(back.order.start(from_available(back)))
            await back.front_end.get_features()
            assert rig.log.of("ring.resumed") == [{"queue": 0, "base": 3, "said": 11}]
            for _ in range(8):
                assert await back.echo(frame(BROADCAST))


async def test_a_packed_ring_of_dpdk_begins_with_both_wrap_counters(tmp_path: Path) -> None:
    """virtio-user says the driver's alone, as if a whole ring were in flight."""
    features = default_features(2) | Feature.RING_PACKED.mask
    async with Rig.opened(tmp_path, SimulatorSpec(max_queue_pairs=2, features=features)) as rig:
        own = rig.features & ~CONTROL_FEATURES
        async with rig.guest("qemu-net", features=own) as guest:
            rings = tuple(replace(ring, base=0x8000) for ring in guest.setup.rings)
            await guest.front_end.play(guest.order.start(guest.setup._replace(rings=rings)))
            await guest.front_end.get_features()
            guest.driver.fill()
            assert await guest.echo(frame(BROADCAST))
