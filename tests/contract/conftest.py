"""The device under contract: the simulator, or the node named by CVQD_CONTRACT_DEVICE.

Expectations here are those that the kernel's network simulator meets too: one
pair, two groups, two address spaces, MAC as the only command.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from cvqd.host.vdpa import CharDevice
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import SimulatorSpec
from cvqd.testing.device_driver import DeviceDriver
from cvqd.testing.events import EventRecorder
from cvqd.wire.virtio import Feature, mask_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from cvqd.core.device import VdpaDevice

NODE = os.environ.get("CVQD_CONTRACT_DEVICE")

#: what the kernel's simulator offers since Linux 6.2, drivers/vdpa/vdpa_sim/vdpa_sim_net.c
KERNEL_FEATURES = mask_of(
    Feature.MTU,
    Feature.MAC,
    Feature.STATUS,
    Feature.CTRL_VQ,
    Feature.CTRL_MAC_ADDR,
    Feature.ANY_LAYOUT,
    Feature.VERSION_1,
    Feature.ACCESS_PLATFORM,
)


@pytest.fixture
def features() -> int:
    return KERNEL_FEATURES


@pytest.fixture
async def device(nursery: trio.Nursery) -> AsyncIterator[VdpaDevice]:
    opened: VdpaDevice
    if NODE:
        opened = await CharDevice.open(NODE)
    else:
        opened = await SimulatedDevice.open(SimulatorSpec(features=KERNEL_FEATURES), EventRecorder(), nursery)
    yield opened
    await opened.aclose()


@pytest.fixture
async def driver(device: VdpaDevice) -> AsyncIterator[DeviceDriver]:
    async with DeviceDriver(device) as driver:
        yield driver


@pytest.fixture
def settle() -> Callable[[], Awaitable[None]]:
    """Wait until the device has done whatever it is going to do."""
    if NODE:
        # the kernel's worker tells nobody that it is idle
        return partial(trio.sleep, 0.1)
    return trio.testing.wait_all_tasks_blocked
