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
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import SimulatorSpec
from cvqd.wire.net_control import MacTableSet, VlanAdd
from cvqd.wire.vhost_vdpa import IovaRange
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


async def test_its_ring_is_no_larger_than_the_devices_smallest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control queue of 64 beside data rings of 256: QEMU's network card behind ``vp_vdpa``."""

    async def size(device: SimulatedDevice, index: int) -> int:
        return 64 if index == device.spec.queue_count - 1 else 256

    monkeypatch.setattr(SimulatedDevice, "get_vring_size", size)
    async with Rig.opened(tmp_path) as rig, rig.guest() as guest:
        await guest.start()
        await guest.set_mac()
        assert [ring.num for ring in rig.device.net.rings] == [256, 256, 256, 256, 64]


@pytest.mark.parametrize("iova", [IovaRange(0, 2**64 - 1), IovaRange(0x12345, 2**48 - 1)])
async def test_it_lies_low_in_a_space_of_its_own_and_high_beside_a_guest(
    tmp_path: Path, iova: IovaRange
) -> None:
    async with Rig.opened(tmp_path, SimulatorSpec(iova_range=iova)) as rig:
        device = rig.device
        shadow = ShadowMemory(await inspect(device), 4096)
        mappings = Mappings(device, rig.owner.current.facts.backend_used)
        await shadow.place(mappings, 1)
        assert mappings.mapped(1)[0].iova == max(0x1000, -(-iova.first // 4096) * 4096)
        await shadow.place(mappings, 0)
        assert not mappings.mapped(1)
        top = mappings.mapped(0)[-1]
        # mlx5_vdpa adds 1 to the last address
        assert top.iova + top.size == min(iova.last + 1, 2**64 - 4096)


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
