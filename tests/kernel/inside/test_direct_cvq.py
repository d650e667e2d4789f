"""The kernel's control queue, driven without the daemon: what the daemon has to live with."""

from __future__ import annotations

import pytest

from cvqd.wire.split_ring import DESC_NEXT, DESC_WRITE, Descriptor
from cvqd.wire.virtio import Status
from kernel.ring_driver import MAC_SET, PAGE, READY, SIZE, DirectRing, negotiate

MAC = b"\x52\x54\x11\xab\xcd\xef"
CVQ = 2


@pytest.fixture(params=[0x100000, 2**64 - SIZE], ids=["low", "top"])
async def ring(device, request):
    """A control queue in address space 1, data memory (never used) in 0; it runs."""
    ring = DirectRing(request.param)
    other = DirectRing(0x40000000)
    await negotiate(device)
    await device.iotlb(0, [other.mapping])
    await device.iotlb(1, [ring.mapping])
    await device.set_group_asid(1, 1)
    await ring.attach(device, CVQ)
    await device.set_status(READY | Status.DRIVER_OK)
    yield ring
    ring.close()
    other.close()


async def test_a_mac_command_is_acknowledged_and_config_shows_it(device, ring):
    assert ring.command(MAC_SET + MAC) == 0
    assert ring.ring.used_element(0) == (0, 1)
    assert await device.get_config(0, 6) == MAC


async def test_a_command_it_does_not_know_is_refused(ring):
    assert ring.command(b"\x04\x00\x02\x00") == 1


async def test_memory_of_the_other_space_is_out_of_reach(device, ring):
    before = await device.get_config(0, 6)
    answer = ring.chain(
        [
            Descriptor(0x40000000 + 3 * PAGE, 8, DESC_NEXT, 1),
            Descriptor(ring.base + 3 * PAGE + 1024, 1, DESC_WRITE, 0),
        ],
        timeout=0.5,
    )
    assert answer is None
    assert await device.get_config(0, 6) == before


async def test_a_reset_forgets_the_ring_and_keeps_the_mac(device, ring):
    assert ring.command(MAC_SET + MAC) == 0
    await device.set_status(0)
    assert await device.get_vring_base(CVQ) == 0
    assert await device.get_config(0, 6) == MAC
    await negotiate(device)
    await device.set_group_asid(1, 1)
    await ring.attach(device, CVQ)
    await device.set_status(READY | Status.DRIVER_OK)
    assert ring.command(MAC_SET + b"\x52\x54\x11\x11\x11\x11") == 0


async def test_a_group_that_is_not_pointed_again_after_a_reset_cannot_see_its_ring(device, ring):
    await device.set_status(0)
    await negotiate(device)
    await ring.attach(device, CVQ)
    await device.set_status(READY | Status.DRIVER_OK)
    assert ring.command(MAC_SET + MAC, timeout=0.5) is None
