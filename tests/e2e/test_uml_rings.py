"""A stock Linux guest on each ring format that it knows, and with notifications as messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cvqd.simulator.spec import default_features
from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.uml import UmlGuest
from cvqd.wire.virtio import Feature, feature_names, mask_of
from kit.uml_link import NEW, OWN, frames

pytestmark = pytest.mark.guest

RINGS = mask_of(Feature.RING_PACKED, Feature.INDIRECT_DESC, Feature.EVENT_IDX)
PLAIN = default_features(4) & ~RINGS

FORMATS = {
    "split": 0,
    "split-indirect": Feature.INDIRECT_DESC.mask,
    "split-event-index": Feature.EVENT_IDX.mask,
    "packed": Feature.RING_PACKED.mask,
    "packed-all": RINGS,
}


def offering(directory: Path, rings: int, **frontend: Any) -> dict[str, Any]:
    content = simulator_config(directory, features=feature_names(PLAIN | rings))
    content["frontend"].update(frontend)
    return content


async def drive(daemon: DaemonProcess, guest: UmlGuest) -> None:
    """Commands and frames, a driver that leaves and comes back, enough of both for the rings to turn over."""
    await guest.load("virtio_net")
    await guest.check("ip link set eth0 up")
    assert await frames(guest, OWN, NEW) == {OWN: "back", NEW: "lost"}
    await guest.check(f"ip link set eth0 address {NEW}")
    await guest.check("ethtool -L eth0 combined 3")
    status = await daemon.status()
    assert (status["state"]["mac"], status["state"]["pairs"]) == (NEW, 3)
    assert await frames(guest, OWN, NEW) == {OWN: "lost", NEW: "back"}
    # 256 descriptors, four to a command: the control ring turns over
    await guest.check(
        "for i in $(seq 1 15); do ip link set eth0 promisc on; ip link set eth0 promisc off; done",
        deadline=30,
    )
    for _ in range(5):
        assert await frames(guest, *[NEW] * 60) == {NEW: "back"}

    mark = len(daemon.events)
    await guest.check("ip link set eth0 down")
    await guest.unload("virtio_net")
    await daemon.event("device.stopped", after=mark)
    await guest.load("virtio_net")
    await daemon.event("state.reset", after=mark)
    await guest.check("ip link set eth0 up")
    assert await frames(guest, OWN, NEW) == {OWN: "back", NEW: "lost"}
    await daemon.told()
    assert not daemon.stray
    assert not daemon.named("cvq.chain.malformed")
    assert not daemon.named("cvq.broken")
    assert not daemon.named("device.fault")


@pytest.mark.parametrize("rings", FORMATS.values(), ids=list(FORMATS))
async def test_a_linux_guest_is_served_in_the_format_it_is_offered(tmp_path: Path, rings: int) -> None:
    async with (
        DaemonProcess.start(tmp_path, offering(tmp_path, rings)) as daemon,
        UmlGuest.boot([Path(daemon.socket)]) as guest,
    ):
        await drive(daemon, guest)
        taken = daemon.named("frontend.negotiated")[-1]["features"]
        assert set(taken) & set(feature_names(RINGS)) == set(feature_names(rings)), json.dumps(taken)
        assert set(feature_names(RINGS)) & set(daemon.named("device.started")[-1]["features"]) == set(
            feature_names(rings)
        ), "what the guest declined is not acknowledged on the device"


async def test_a_linux_guest_whose_kicks_and_calls_are_messages(tmp_path: Path) -> None:
    async with (
        DaemonProcess.start(tmp_path, offering(tmp_path, RINGS, inband=True)) as daemon,
        UmlGuest.boot([Path(daemon.socket)]) as guest,
    ):
        await drive(daemon, guest)
        assert (await daemon.status())["frontend"]["bridged"] == list(range(9))
