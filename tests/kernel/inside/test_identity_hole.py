"""An address space in which nothing is mapped is identity: the device reaches this process through it.

So the daemon maps something into every address space a group points at before
DRIVER_OK.  Here the kernel is shown to do it, and mapping to close it.  Source:
``drivers/vdpa/vdpa_sim/vdpa_sim.c``, ``iommu_pt``.
"""

from __future__ import annotations

import pytest

from cvqd.wire.vhost_vdpa import Unmap
from cvqd.wire.virtio import Status
from kernel.ring_driver import MAC_SET, READY, DirectRing, negotiate

MAC = b"\x52\x54\x11\xab\xcd\xef"
CVQ = 2


@pytest.fixture
def ring():
    """A ring at its address in this process, as an attacker who guessed it would say it."""
    ring = DirectRing(0)
    ring.move(ring.region.address)
    yield ring
    ring.close()


@pytest.fixture
def own():
    ring = DirectRing(0x100000)
    yield ring
    ring.close()


async def start(device, ring):
    await ring.attach(device, CVQ)
    await device.set_status(READY | Status.DRIVER_OK)
    return ring.command(MAC_SET + MAC, timeout=0.5)


async def test_through_an_empty_address_space_the_device_reaches_this_process(device, ring):
    await device.set_config(0, bytes.fromhex("525411223301"))
    await negotiate(device)
    assert await start(device, ring) == 0
    assert await device.get_config(0, 6) == MAC


async def test_one_mapping_closes_the_address_space(device, ring, own):
    await device.set_config(0, bytes.fromhex("525411223301"))
    await negotiate(device)
    await device.iotlb(1, [own.mapping])
    await device.set_group_asid(1, 1)
    assert await start(device, ring) is None
    assert await device.get_config(0, 6) == bytes.fromhex("525411223301")


async def test_a_reset_puts_the_group_back_on_space_0(device, ring, own):
    await negotiate(device)
    await device.iotlb(1, [own.mapping])
    await device.set_group_asid(1, 1)
    await device.set_status(0)
    await negotiate(device)
    # nothing was ever mapped in 0, and nobody pointed the group anywhere else again
    assert await start(device, ring) == 0


async def test_mappings_stay_through_a_reset_so_space_1_stays_closed(device, ring, own):
    await negotiate(device)
    await device.iotlb(1, [own.mapping])
    await negotiate(device)
    await device.set_group_asid(1, 1)
    assert await start(device, ring) is None


async def test_removing_the_last_mapping_does_not_open_the_space_again(device, ring, own):
    await negotiate(device)
    await device.iotlb(1, [own.mapping])
    await device.set_group_asid(1, 1)
    await device.set_status(0)
    await device.iotlb(1, [Unmap(own.base, own.mapping.size)])
    await negotiate(device)
    await device.set_group_asid(1, 1)
    assert await start(device, ring) is None
