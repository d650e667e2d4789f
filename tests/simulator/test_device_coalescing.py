"""Coalesced calls in the device's own time: turns are taken by hand, so nothing depends on a clock."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import SimulatorSpec
from cvqd.testing.device_driver import DeviceDriver
from cvqd.testing.driver_ring import Buffer
from cvqd.wire.net_control import Coalescing, CoalRxSet, CoalTxSet
from kit.ip_frames import ip_frame

if TYPE_CHECKING:
    from cvqd.testing.events import EventRecorder

FRAME = ip_frame("10.0.0.1", "10.0.0.2", (1, 2))


class Bench:
    """A device that works when told, and how often it called for its rings."""

    def __init__(self, driver: DeviceDriver) -> None:
        self.driver = driver
        self.net = driver.device.net
        self.now = 100.0

    def turn(self, later: float = 0.0) -> None:
        self.now += later
        while self.net.turn(self.now):
            pass

    def command(self, command) -> None:
        ack = self.driver.submit(command.encode())
        self.turn()
        assert self.driver.control.view(ack, 1)[0] == 0
        assert self.driver.commands.poll() is not None

    def send(self, count: int = 1) -> None:
        packet = self.driver.header + FRAME
        for _ in range(count):
            self.driver.transmit[0].add([Buffer(self.driver.data.put(packet), len(packet))])
        self.driver.transmit[0].kick()
        self.turn()

    def calls(self, ring) -> int:
        try:
            return os.eventfd_read(ring.call_fd)
        except BlockingIOError:
            return 0

    @property
    def received(self) -> int:
        return self.calls(self.driver.receive[0])

    @property
    def transmitted(self) -> int:
        return self.calls(self.driver.transmit[0])


@pytest.fixture
async def bench(log: EventRecorder):
    device = SimulatedDevice(SimulatorSpec(), log)
    driver = DeviceDriver(device)
    await driver.start()
    driver.fill(buffers=32)
    yield Bench(driver)
    await driver.stop()
    device.net.close()
    device.net.doorbells.close()


async def test_each_packet_is_told_after_a_reset(bench):
    bench.send()
    assert (bench.received, bench.transmitted) == (1, 1)


async def test_calls_wait_for_the_number_of_packets_and_buffers_do_not(bench):
    bench.command(CoalRxSet(Coalescing(4, 10_000)))
    bench.send(3)
    assert bench.transmitted == 1
    assert bench.received == 0
    assert len(bench.driver.received()) == 3, "they are there for a driver that looks"
    bench.send()
    assert bench.received == 1


async def test_calls_wait_for_the_time_and_the_device_says_when(bench):
    bench.command(CoalRxSet(Coalescing(100, 500)))
    assert bench.net.next_due is None
    bench.send()
    assert bench.net.next_due == pytest.approx(bench.now + 500e-6)
    bench.turn(400e-6)
    assert bench.received == 0
    bench.turn(101e-6)
    assert bench.received == 1
    assert bench.net.next_due is None


async def test_transmit_and_receive_have_parameters_of_their_own(bench):
    bench.command(CoalTxSet(Coalescing(100, 500)))
    bench.send()
    assert (bench.received, bench.transmitted) == (1, 0)
    bench.turn(1.0)
    assert bench.transmitted == 1


async def test_new_parameters_that_are_met_already_are_told_at_once(bench):
    bench.command(CoalRxSet(Coalescing(15, 1_000_000)))
    bench.send(10)
    assert bench.received == 0
    bench.command(CoalRxSet(Coalescing(8, 1_000_000)))
    assert bench.received == 1


async def test_the_control_queue_is_never_held_back(bench):
    bench.command(CoalTxSet(Coalescing(100, 1_000_000)))
    assert bench.calls(bench.driver.commands) == 1


async def test_a_device_that_stops_holds_nothing_back(bench):
    bench.command(CoalRxSet(Coalescing(100, 1_000_000)))
    bench.send()
    await bench.driver.device.suspend()
    assert bench.received == 1
    await bench.driver.device.resume()
    bench.send()
    await bench.driver.device.set_vring_enable(0, enable=False)
    assert bench.received == 1


async def test_a_reset_forgets_parameters_and_calls(bench):
    bench.command(CoalRxSet(Coalescing(100, 1_000_000)))
    bench.send()
    bench.net.reset()
    assert bench.net.next_due is None
    assert bench.received == 0
    assert bench.net.control.coalescing(0) == Coalescing(0, 0)


async def test_interrupts_are_counted_as_calls_are_made(bench):
    bench.command(CoalRxSet(Coalescing(4, 10_000)))
    bench.send(8)
    assert bench.net.statistics.queues[0]["rx_interrupts"] == bench.received == 1
