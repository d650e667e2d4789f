"""Simulated devices and drivers on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import SimulatorSpec
from cvqd.testing.device_driver import USUAL_FEATURES, DeviceDriver
from cvqd.testing.events import EventRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import trio


@pytest.fixture
def log() -> EventRecorder:
    return EventRecorder()


@pytest.fixture
async def simulate(
    nursery: trio.Nursery, log: EventRecorder
) -> AsyncIterator[Callable[..., Awaitable[SimulatedDevice]]]:
    """Open a device; keywords are those of SimulatorSpec."""
    opened: list[SimulatedDevice] = []

    async def simulate(**spec: Any) -> SimulatedDevice:
        opened.append(await SimulatedDevice.open(SimulatorSpec(**spec), log, nursery))
        return opened[-1]

    yield simulate
    for device in opened:
        await device.aclose()


@pytest.fixture
async def drive(simulate: Any) -> AsyncIterator[Callable[..., Awaitable[DeviceDriver]]]:
    """Open a device and start a driver on it with all rings, ``features`` being the driver's."""
    started: list[DeviceDriver] = []

    async def drive(features: int = USUAL_FEATURES, backend: int | None = None, **spec: Any) -> DeviceDriver:
        device = await simulate(**spec)
        pairs = device.spec.max_queue_pairs
        started.append(DeviceDriver(device, pairs=pairs, max_pairs=pairs))
        await started[-1].start(features, backend)
        return started[-1]

    yield drive
    for driver in started:
        await driver.stop()
