"""Rings and descriptors of a guest that is moved: they go on where they stood, and none is left behind."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import SimulatorSpec, default_features
from cvqd.wire.net_control import MacAddrSet
from cvqd.wire.vhost_user import DescriptorKind
from cvqd.wire.virtio import Feature
from kit.rig import BROADCAST, MAC_A, frame, open_descriptors
from kit.two_devices import ELSEWHERE, mappings, rehearse, two, well

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize("words", [{"back": True}, {"dry": True}], ids=["there and back", "dry"])
async def test_moves_leave_no_descriptor_and_no_mapping_behind(
    tmp_path: Path, words: dict[str, bool]
) -> None:
    async with two(tmp_path) as (rig, guest):
        await rehearse(rig, **words)
        gc.collect()
        before = open_descriptors(), mappings()
        answer = await rehearse(rig, times=10, **words)
        assert answer["verdict"] == "passed"
        gc.collect()
        assert (open_descriptors(), mappings()) == before
        await well(guest)
