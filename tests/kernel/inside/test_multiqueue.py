"""Four pairs on the kernel's character device: the control queue is ring 8, wherever the guest's is.

``vdpa2`` and ``vdpa3`` have our own patch to the simulator under them (``multiqueue.patch``).
"""

from __future__ import annotations

import pytest

from cvqd.core.isolation import Verdict
from cvqd.errors import IsolationError
from cvqd.host.vdpa import CharDevice
from cvqd.wire.net_control import ERR, OK, MacAddrSet, VqPairsSet
from cvqd.wire.virtio import Feature, Status
from kernel.ring_driver import FEATURES, READY, DirectRing, negotiate

OFFERED = "/dev/vhost-vdpa-2"
WITHHELD = "/dev/vhost-vdpa-3"
MAC = bytes.fromhex("525411abcdef")
BROADCAST = b"\xff" * 6


@pytest.fixture(params=[True, False], ids=["mq", "no-mq"])
async def control(request):
    """Device and control ring, placed where the negotiated features say it is."""
    device = await CharDevice.open(OFFERED)
    index, mq = (8, Feature.MQ.mask) if request.param else (2, 0)
    ring = DirectRing(0x100000)
    await negotiate(device, FEATURES | mq)
    for asid in (0, 1):
        await device.iotlb(asid, [ring.mapping])
    await device.set_group_asid(1, 1)
    await ring.attach(device, index)
    await device.set_status(READY | Status.DRIVER_OK)
    yield device, ring, request.param
    ring.close()
    await device.aclose()


async def test_nine_rings_and_the_last_in_a_group_of_its_own():
    device = await CharDevice.open(OFFERED)
    assert await device.get_features() & Feature.MQ.mask
    assert await device.get_vqs_count() == 9
    assert [await device.get_vring_group(index) for index in range(9)] == [0] * 8 + [1]
    assert (await device.get_config(8, 2)) == b"\x04\x00"
    await device.aclose()


async def test_the_device_takes_as_many_pairs_as_it_has(control):
    _, ring, multiqueue = control
    for pairs, answer in ((1, OK), (4, OK), (0, ERR), (5, ERR), (3, OK)):
        assert ring.command(VqPairsSet(pairs).encode()) == (answer if multiqueue else ERR)
    assert ring.command(MacAddrSet(MAC).encode()) == OK


async def carries(driver, pair):
    """Whether a broadcast on this pair comes back on it."""
    sent = (BROADCAST + MAC + b"\x88\xb5" + bytes([pair])).ljust(60, b"\0")
    driver.send_frame(sent, pair)
    return await driver.receive_frame(pair) == sent


async def test_every_pair_the_guest_sets_carries_frames(instance):
    async with instance(OFFERED, mac=MAC) as daemon, daemon.guest() as driver:
        queues = daemon.owner.current.isolation.queues
        assert [(queue.group, queue.asid) for queue in queues] == [(0, 0)] * 8 + [(1, 1)]
        assert await driver.command(VqPairsSet(4).encode()) == OK
        for pair in range(4):
            driver.fill(pair)
            assert await carries(driver, pair)
        assert await driver.command(VqPairsSet(5).encode()) == ERR
        assert daemon.owner.state.pairs == 4


async def test_a_guest_that_declines_mq_has_its_control_queue_at_2_and_the_devices_stays_at_8(instance):
    async with instance(OFFERED, mac=MAC) as daemon, daemon.guest(~Feature.MQ.mask) as driver:
        assert driver.control.index == 2
        assert daemon.owner.guest_cvq == 2
        cvq = daemon.owner.current.isolation.cvq
        assert (cvq.index, cvq.group, cvq.asid) == (8, 1, 1)
        assert await driver.command(MacAddrSet(MAC).encode()) == OK
        assert await daemon.device.get_config(0, 6) == MAC
        driver.fill()
        assert await carries(driver, 0)


async def test_with_mq_withheld_the_control_queue_falls_into_the_data_group(instance):
    with pytest.raises(BaseExceptionGroup) as refused:
        async with instance(WITHHELD):
            raise AssertionError
    (error,) = refused.value.exceptions
    assert isinstance(error, IsolationError)
    assert error.exit_code == 78
    assert "control queue 2: queue 2 shares group 0 with queues 0, 1, 3, 4, 5, 6, 7" in str(error)

    async with instance(WITHHELD, require_isolation=False, mac=MAC) as daemon:
        assert daemon.owner.current.isolation.verdict is Verdict.SHARED
        assert daemon.owner.current.isolation.cvq.index == 2
        (warned,) = daemon.log.of("isolation.shared")
        assert warned["queue"] == 2
        async with daemon.guest() as driver:
            assert await driver.command(MacAddrSet(MAC).encode()) == OK
            assert await daemon.device.get_config(0, 6) == MAC
