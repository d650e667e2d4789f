"""Rings of random bytes: every turn ends, nothing raises, nothing outside is touched, the device goes on."""

from __future__ import annotations

import random

import pytest

from cvqd.simulator.datapath import MAX_FRAME
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import SimulatorSpec
from cvqd.testing.device_driver import USUAL_FEATURES, DeviceDriver
from cvqd.testing.driver_ring import Buffer
from cvqd.wire.net_control import OK, MacAddrSet
from cvqd.wire.split_ring import Descriptor, ring_sizes
from cvqd.wire.virtio import Feature

SET_MAC = MacAddrSet(bytes.fromhex("525411223344")).encode()
ROUNDS = 1500


class Silent:
    """A log that forgets: a recorder would keep tens of thousands of events."""

    def emit(self, *_: object, **__: object) -> None:
        pass

    def enabled(self, *_: object) -> bool:
        return False


def plausible(rng: random.Random, arena, canary: int, num: int) -> Descriptor:
    """A descriptor that is wrong in interesting ways."""
    address = rng.choice(
        (
            arena.iova + rng.randrange(arena.size),
            arena.iova + arena.size - rng.randrange(64),
            canary + rng.randrange(4096),
            rng.getrandbits(64),
            0,
        )
    )
    length = rng.choice((0, 1, 2, 6, 12, 72, 2048, rng.getrandbits(20), 2**32 - 1))
    flags = rng.choice((0, 1, 2, 3, 4, 1, 3, rng.getrandbits(16)))
    return Descriptor(address, length, flags, rng.choice((rng.randrange(num), rng.getrandbits(16))))


@pytest.mark.parametrize("seed", range(3))
async def test_random_rings_end_in_answers_or_a_ring_left_alone(seed):
    rng = random.Random(seed)
    device = SimulatedDevice(SimulatorSpec(), Silent())
    driver = DeviceDriver(device, num=16)
    canary = driver.control.put(b"\xc5" * 4096)
    await driver.start()
    for _ in range(ROUNDS):
        ring = rng.choice(driver.rings)
        arena = driver.control if ring is driver.commands else driver.data
        for slot in range(16):
            if rng.random() < 0.3:
                ring.ring.put_descriptor(slot, plausible(rng, arena, canary, 16))
        if ring is driver.commands:
            # canaries are for the data rings; the control ring may write where it is told
            for slot in range(16):
                broken = ring.ring.descriptor(slot)
                if broken.flags & 2 and canary - 4096 < broken.address < canary + 4096:
                    ring.ring.put_descriptor(slot, broken._replace(address=0))
        step = rng.choice((1, 1, 1, 2, 16, 17, 0x8000))
        for offset in range(min(step, 16)):
            head = rng.randrange(16) if rng.random() < 0.98 else 60000
            ring.ring.put_available(ring.ring.available_index + offset, head)
        ring.ring.available_index += step
        ring.kick()
        for _ in range(40):
            if not device.net.turn(0.0):
                break
        else:
            pytest.fail("the device does not come to rest")
        if device.net.rings[ring.index].broken:
            await device.set_vring_enable(ring.index, enable=False)
            ring.ring.available_index = await device.get_vring_base(ring.index)
            await device.set_vring_enable(ring.index, enable=True)
    assert bytes(driver.control.view(canary, 4096)) == b"\xc5" * 4096
    statistics = device.statistics
    assert statistics.cvq_errors
    assert {0, 1, 2} >= set(statistics.iotlb_faults) >= {1, 2}
    assert statistics.broken_rings
    assert statistics.malformed_chains

    await driver.stop()
    await driver.start()
    ack = driver.control.put(b"\xff")
    driver.commands.add([Buffer(driver.control.put(SET_MAC), 8), Buffer(ack, 1, writable=True)])
    driver.commands.kick()
    device.net.turn(0.0)
    assert driver.control.view(ack, 1)[0] == OK
    await driver.stop()
    await device.aclose()


@pytest.mark.parametrize("flags", [0, 2], ids=["nothing to write to", "a byte each"])
async def test_a_driver_that_adds_crumbs_for_ever_does_not_keep_the_device(flags):
    left = 70_000

    def another_processor() -> None:
        nonlocal left
        if driver.receive and left:
            left -= 1
            driver.receive[0].publish(0)

    device = SimulatedDevice(SimulatorSpec(), Silent(), fence=another_processor)
    driver = DeviceDriver(device, num=16)
    await driver.start(USUAL_FEATURES & ~Feature.MTU.mask)
    ring = driver.receive[0]
    ring.ring.put_descriptor(0, Descriptor(driver.data.allocate(1), 1, flags, 0))
    ring.ring.put_descriptor(1, Descriptor(driver.data.allocate(12), 12, 2, 0))
    ring.publish(1)
    device.net._data.receive(b"\xff" * MAX_FRAME, 0)
    assert left > 69_000
    assert device.statistics.drops == {"rx.too_small": 1}
    await driver.stop()
    await device.aclose()


async def test_a_command_may_lie_in_the_descriptor_table_itself():
    device = SimulatedDevice(SimulatorSpec(), Silent())
    driver = DeviceDriver(device, num=16)
    await driver.start()
    ring = driver.commands
    sizes = ring_sizes(16)
    table = driver.control.view(ring.addresses.descriptors, sizes.descriptors)
    ring.ring.put_descriptor(0, Descriptor(ring.addresses.descriptors, 16, 1, 1))
    ring.ring.put_descriptor(1, Descriptor(ring.addresses.descriptors + 16, 1, 2, 0))
    before = bytes(table[32:])
    ring.publish(0)
    ring.kick()
    device.net.turn(0.0)
    assert ring.poll() == (0, 1)
    assert bytes(table[32:]) == before
    await driver.stop()
    await device.aclose()
