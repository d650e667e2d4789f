"""Calls on a character device by somebody who is cancelled: what was recorded is what the device has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio

from cvqd.core.mappings import Mappings
from cvqd.host import shared_memory, vdpa
from cvqd.host.vdpa import CharDevice
from cvqd.wire.vhost_vdpa import Access, Backend, Map
from cvqd.wire.vhost_vdpa_ioctl import IOVA_RANGE, Ioctl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def device(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CharDevice]:
    """One whose kernel says yes to everything; /dev/null takes what is written to it."""

    def ioctl(_: int, request: int, argument: bytearray) -> None:
        if request == Ioctl.VHOST_VDPA_GET_IOVA_RANGE:
            argument[:] = IOVA_RANGE.pack(0, 2**64 - 1)

    monkeypatch.setattr(vdpa.fcntl, "ioctl", ioctl)
    device = CharDevice("/dev/null", os.open(os.devnull, os.O_RDWR))
    await device.set_backend_features(Backend.IOTLB_BATCH.mask)
    yield device
    await device.aclose()


async def test_memory_that_a_cancelled_task_takes_back_is_taken_back(device: CharDevice) -> None:
    mappings = Mappings(device, Backend.IOTLB_BATCH.mask)
    region = shared_memory.create("cvqd-test", 0x1000)
    await mappings.change(0, (), [Map(0x1000, 0x1000, region, 0, Access.READ_WRITE)])
    with trio.CancelScope() as scope:
        scope.cancel()
        await mappings.change(0, [0x1000], ())
    assert not mappings.mapped(0)
    # otherwise it would be in the way of the next guest's, and the device's to write to until it is closed
    assert device._books.mapped(0) == 0
