"""One end of a cable that two simulators name."""

from __future__ import annotations

import pytest
import trio.testing

from cvqd.errors import DeviceError
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.outlet import Outlets
from cvqd.simulator.spec import PeerPath, SimulatorSpec
from cvqd.testing.device_driver import DeviceDriver

BROADCAST = b"\xff" * 6
MAC = bytes.fromhex("525400000a01")


def frame(tag: bytes) -> bytes:
    return (BROADCAST + bytes.fromhex("525400000a02") + b"\x88\xb5" + tag).ljust(60, b".")


@pytest.fixture
def ends(tmp_path):
    left, right = str(tmp_path / "left"), str(tmp_path / "right")
    return PeerPath(left, right), PeerPath(right, left)


@pytest.fixture
async def two(nursery, log, ends):
    """Two simulators with one end, of which the first is the one that runs."""
    outlets = Outlets()
    devices = [
        await SimulatedDevice.open(SimulatorSpec(mac=MAC, datapath=ends[0]), log, nursery, outlets=outlets)
        for _ in range(2)
    ]
    drivers = [DeviceDriver(device) for device in devices]
    yield drivers
    for driver in drivers:
        await driver.device.aclose()


async def received(driver):
    await trio.testing.wait_all_tasks_blocked()
    return [frame[14:15] for frame in driver.received()]


async def test_frames_that_arrive_in_between_wait_for_the_device_that_runs_next(two, drive, ends):
    first, second = two
    other = await drive(datapath=ends[1])
    await first.start()
    first.fill()
    await other.send(frame(b"1"))
    assert await received(first) == [b"1"]
    await first.device.suspend()
    await other.send(frame(b"2"))
    await second.start()
    second.fill()
    assert await received(second) == [b"2"]
    await other.send(frame(b"3"))
    assert await received(second) == [b"3"]
    assert await received(first) == []
    other.fill()
    await second.send(frame(b"4"))
    assert await received(other) == [b"4"]


async def test_frames_wait_until_a_receive_ring_is_enabled(two, drive, ends):
    other = await drive(datapath=ends[1])
    driver = two[0]
    await driver.start()
    driver.fill()
    await driver.device.set_vring_enable(0, enable=False)
    await other.send(frame(b"1"))
    assert await received(driver) == []
    await driver.device.set_vring_enable(0, enable=True)
    assert await received(driver) == [b"1"]


async def test_a_device_that_resumes_has_its_end_back(two, drive, ends):
    first, second = two
    other = await drive(datapath=ends[1])
    await first.start()
    first.fill()
    await first.device.suspend()
    await second.start()
    await second.device.suspend()
    await first.device.resume()
    await other.send(frame(b"1"))
    assert await received(first) == [b"1"]


@pytest.mark.parametrize("closed", [0, 1])
async def test_the_end_stays_while_one_of_them_is_open(two, tmp_path, closed):
    await two[closed].start()
    await two[closed].device.aclose()
    assert (tmp_path / "left").exists()
    await two[1 - closed].start()
    await two[1 - closed].device.aclose()
    assert not (tmp_path / "left").exists()


async def test_the_same_path_with_another_peer_is_another_cable_and_refused(nursery, log, ends, tmp_path):
    outlets = Outlets()
    device = await SimulatedDevice.open(SimulatorSpec(datapath=ends[0]), log, nursery, outlets=outlets)
    elsewhere = SimulatorSpec(datapath=PeerPath(ends[0].bind, str(tmp_path / "elsewhere")))
    with pytest.raises(DeviceError, match="EADDRINUSE"):
        await SimulatedDevice.open(elsewhere, log, nursery, outlets=outlets)
    await device.aclose()
