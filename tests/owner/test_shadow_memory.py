"""The shadow queue's memory where the device or the kernel says no, and commands that it has no room for."""

from __future__ import annotations

from errno import EMSGSIZE, ENOMEM
from typing import TYPE_CHECKING, Any

import pytest

from cvqd.core.lifecycle import inspect
from cvqd.core.mappings import Mappings
from cvqd.core.queues.shadow_queue import ShadowLayout, ShadowQueue
from cvqd.errors import DeviceError
from cvqd.host.doorbell import DoorbellSet
from cvqd.owner.replay import replay
from cvqd.owner.shadow_memory import ShadowMemory
from cvqd.wire.net_control import MacTableSet, VlanAdd
from kit.rig import Rig

if TYPE_CHECKING:
    from pathlib import Path


async def test_memory_that_could_not_be_mapped_is_mapped_the_next_time(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path) as rig:
        device: Any = rig.device
        shadow = ShadowMemory(await inspect(device), 4096)
        mappings = Mappings(device, rig.owner.current.facts.backend_used)
        taken = device.iotlb

        async def full(*_: Any) -> None:
            raise DeviceError("VHOST_IOTLB_UPDATE", ENOMEM, "no room")

        device.iotlb = full
        with pytest.raises(DeviceError, match="no room"):
            await shadow.place(mappings, 0)
        device.iotlb = taken
        assert shadow.placed is None
        await shadow.withdraw(mappings)
        await shadow.place(mappings, 0)
        assert sum(entry.size for entry in mappings.mapped(0)) == shadow.size


async def test_a_replayed_command_that_is_too_long_is_named_before_any_is_sent() -> None:
    layout = ShadowLayout(8, 256)
    shadow = ShadowQueue(layout, memoryview(bytearray(layout.size)), 0x1000, lambda: None)
    long = MacTableSet((bytes(6),) * 50, ())
    with (
        DoorbellSet() as doorbells,
        pytest.raises(DeviceError, match=r"mac\.table_set, 2 of 2: 310 bytes") as no,
    ):
        await replay([VlanAdd(1), long], shadow, doorbells, pytest.fail, 1.0)
    assert no.value.errno == EMSGSIZE
