"""The device that these tests own, one after the other."""

from __future__ import annotations

import os

import pytest

from cvqd.host.vdpa import CharDevice
from cvqd.host.vdpa_node import find_node


@pytest.fixture(scope="session")
def node():
    return find_node(os.environ["CVQD_KERNEL_DEVICE"])


@pytest.fixture
async def device(node):
    device = await CharDevice.open(node)
    yield device
    await device.aclose()
