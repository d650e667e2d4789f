"""Borrowed eventfds: edges, sharing, owners that close early, nothing left open."""

from __future__ import annotations

import errno
import gc
import os
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from cvqd.errors import DeviceError
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.doorbells import WAKE, Bell, Doorbells, require_eventfd
from cvqd.simulator.spec import Fault, FaultAction, PeerPath, SimulatorSpec
from cvqd.testing.device_driver import DeviceDriver
from cvqd.testing.events import EventRecorder
from cvqd.wire.net_control import OK, MacAddrSet
from cvqd.wire.vhost_vdpa import Unmap

SET_MAC = MacAddrSet(bytes.fromhex("525411223344")).encode()


@pytest.fixture
def eventfd():
    made: list[int] = []

    def eventfd() -> int:
        made.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        return made[-1]

    yield eventfd
    for fd in made:
        try:
            os.close(fd)
        except OSError as error:
            assert error.errno == errno.EBADF  # noqa: PT017 -- a test may have closed it


@pytest.fixture
def doorbells():
    doorbells = Doorbells()
    yield doorbells
    doorbells.close()


def test_every_write_is_an_edge_although_nobody_reads(doorbells, eventfd):
    fd = eventfd()
    doorbells.bind(3, fd)
    for _ in range(3):
        os.eventfd_write(fd, 1)
        assert doorbells.take() == {3}
        assert doorbells.take() == set()
    assert os.eventfd_read(fd) == 3


def test_what_is_signalled_already_rings_when_bound(doorbells, eventfd):
    fd = eventfd()
    os.eventfd_write(fd, 1)
    doorbells.bind(0, fd)
    assert doorbells.take() == {0}


def test_one_descriptor_may_ring_for_two(doorbells, eventfd):
    fd = eventfd()
    doorbells.bind(0, fd)
    doorbells.bind(1, fd)
    os.eventfd_write(fd, 1)
    assert doorbells.take() == {0, 1}
    doorbells.unbind(0)
    os.eventfd_write(fd, 1)
    assert doorbells.take() == {1}
    doorbells.bind(1, -1)
    os.eventfd_write(fd, 1)
    assert doorbells.take() == set()


def test_a_replaced_descriptor_does_not_ring(doorbells, eventfd):
    old, new = eventfd(), eventfd()
    doorbells.bind(0, old)
    doorbells.bind(0, new)
    os.eventfd_write(old, 1)
    assert doorbells.take() == set()
    os.eventfd_write(new, 1)
    assert doorbells.take() == {0}


def test_an_owner_that_closed_early_does_no_harm(doorbells, eventfd):
    fd = eventfd()
    doorbells.bind(0, fd)
    os.close(fd)
    again = eventfd()
    assert again == fd
    doorbells.bind(0, again)
    os.eventfd_write(again, 1)
    assert doorbells.take() == {0}


def test_a_wake_up_is_reported(doorbells):
    doorbells.wake()
    assert doorbells.take() == {WAKE}
    assert doorbells.take() == set()


def test_a_bell_rings_whoever_is_bound(eventfd):
    bell = Bell()
    bell.ring()
    fd = eventfd()
    bell.bind(fd)
    bell.ring()
    assert os.eventfd_read(fd) == 1
    bell.bind(-1)
    bell.ring()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fd)


def test_a_bell_whose_eventfd_was_closed_is_silent(eventfd):
    bell, fd = Bell(), eventfd()
    bell.bind(fd)
    os.close(fd)
    bell.ring()


def test_only_eventfds_are_taken(eventfd):
    require_eventfd("CALL", eventfd(), "")
    with socket.socket() as other, pytest.raises(DeviceError, match="EINVAL"):
        require_eventfd("CALL", other.fileno(), "")
    fd = eventfd()
    os.close(fd)
    with pytest.raises(DeviceError, match="EBADF"):
        require_eventfd("CALL", fd, "")


def descriptors() -> set[str]:
    gc.collect()
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except FileNotFoundError:
            # the listing's own
            continue
    return found


async def test_a_device_leaves_nothing_open_whatever_it_did(nursery, tmp_path):
    before = descriptors()
    for _ in range(3):
        spec = SimulatorSpec(
            max_queue_pairs=8,
            datapath=PeerPath(str(tmp_path / "a"), str(tmp_path / "b")),
            faults=(Fault("vlan.add", FaultAction.DELAY),),
        )
        device = await SimulatedDevice.open(spec, EventRecorder(), nursery)
        async with DeviceDriver(device, pairs=8, max_pairs=8) as driver:
            await driver.start()
            assert await driver.command(SET_MAC) == OK
            driver.submit(b"\x02\x00\x05\x00")
            await driver.send(b"\xff" * 60)
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(DeviceError, match="EADDRINUSE"):
            await SimulatedDevice.open(spec, EventRecorder(), nursery)
        await device.aclose()
        del driver, device
    assert descriptors() == before


async def test_closing_under_the_driver_ends_the_serving_task(log):
    device: SimulatedDevice
    async with trio.open_nursery() as nursery:
        device = await SimulatedDevice.open(SimulatorSpec(), log, nursery)
        driver = DeviceDriver(device)
        await driver.start()
        await trio.testing.wait_all_tasks_blocked()
        await device.aclose()
    # the nursery ended: no task is left
    for ring in driver.rings:
        ring.close()
    with pytest.raises(DeviceError, match="EBADF"):
        await device.set_vring_num(0, 64)


async def test_closing_before_the_serving_task_ran_ends_it(log):
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            device = await SimulatedDevice.open(SimulatorSpec(), log, nursery)
            await device.aclose()


async def test_a_cancelled_nursery_leaves_a_device_that_can_be_closed(log):
    async with trio.open_nursery() as nursery:
        device = await SimulatedDevice.open(SimulatorSpec(), log, nursery)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await device.aclose()


async def test_memory_can_be_taken_away_once_it_is_unmapped(drive):
    driver = await drive()
    assert await driver.command(SET_MAC) == OK
    await driver.send(b"\xff" * 60)
    held = driver.device.net.rings[2]._queue
    assert held is not None
    del held
    for asid, arena in driver._shown:
        await driver.device.iotlb(asid, [Unmap(arena.iova, 1)])
    assert [ring._queue for ring in driver.device.net.rings] == [None] * 3
