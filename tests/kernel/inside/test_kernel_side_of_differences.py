"""The kernel's side of the list of differences: what its simulator does, one test per entry.

The entries, and our simulator's side of each, are in ``tests/contract``.  The
names are the same; an entry without a test, or a test without an entry, fails.
"""

from __future__ import annotations

import os

import pytest
import trio

from contract.test_differences import BROADCAST, DIFFERENCES, MAC, NEGOTIATED, PAGE, SET_MAC, frame
from cvqd.host import shared_memory
from cvqd.testing.device_driver import NET_HEADER, DeviceDriver
from cvqd.testing.driver_ring import Buffer
from cvqd.wire.net_control import ERR, OK, MacAddrSet
from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_vdpa import Access, BatchMark, Map, Unmap
from cvqd.wire.virtio import Feature, Status
from kernel.ring_driver import DirectRing, negotiate

OTHER = bytes.fromhex("525411999999")
SET_OTHER = MacAddrSet(OTHER).encode()
#: seconds after which the kernel's worker is taken to be idle; it tells nobody
IDLE = 0.2


@pytest.fixture
async def device(device):
    await device.set_config(0, OTHER)
    return device


@pytest.fixture
async def driver(device):
    async with DeviceDriver(device) as driver:
        yield driver


@pytest.fixture
def region():
    return shared_memory.create("differences", 4 * PAGE)


async def address(device):
    return await device.get_config(0, 6)


async def never_given_back(driver):
    with trio.move_on_after(IDLE) as scope:
        await driver.commands.wait()
    return scope.cancelled_caught


async def exchange(driver, parts):
    driver.commands.add(parts)
    driver.commands.kick()
    return (await driver.commands.wait())[1]


def test_the_list_and_the_tests_are_the_same():
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert tests - {"the_list_and_the_tests_are_the_same"} == set(DIFFERENCES)


async def test_empty_address_space(device):
    ring = DirectRing(0)
    ring.move(ring.region.address)
    await negotiate(device)
    await ring.attach(device, 2)
    await device.set_status(NEGOTIATED | Status.DRIVER_OK)
    assert ring.command(SET_MAC) == OK
    ring.close()


async def test_empty_invalidation(device, region):
    mapping = Map(PAGE, PAGE, region, 0, Access.READ_WRITE)
    await device.iotlb(0, [mapping, Unmap(0, 0), mapping])


async def test_mapping_behind_the_region(device, region):
    await device.iotlb(0, [Map(0, 4 * PAGE, region, PAGE, Access.READ_WRITE)])


async def test_mapping_without_permission(device, region):
    await device.iotlb(0, [Map(0, PAGE, region, 0, Access(0))])


async def test_ring_part_in_two_mappings(device, driver):
    await driver.start()
    await device.suspend()
    arena, table = driver.control, driver.commands.addresses.descriptors
    split = table + 512 - arena.iova
    await device.iotlb(
        1,
        [
            BatchMark.BEGIN,
            Unmap(arena.iova, 1),
            arena.mapping()._replace(size=split),
            arena.mapping()._replace(iova=arena.iova + split, size=arena.size - split, offset=split),
            BatchMark.END,
        ],
    )
    await device.resume()
    # the ring's descriptors lie on both sides
    for _ in range(driver.commands.num // 2):
        assert await driver.command(SET_MAC) == OK


async def test_features_not_offered(device):
    await device.set_features(await device.get_features() | Feature.RSS.mask)


async def test_features_without_version_1(device):
    await device.set_features(await device.get_features() & ~Feature.VERSION_1.mask)


async def test_features_without_what_they_need(device):
    await device.set_features(await device.get_features() & ~Feature.CTRL_VQ.mask)


async def test_features_ok_without_features(device):
    await device.set_status(NEGOTIATED)
    assert await device.get_status() == NEGOTIATED


async def test_driver_ok_without_features_ok(device):
    started = Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK
    await device.set_status(started)
    assert await device.get_status() == started


async def test_group_moved_after_driver_ok(device, driver):
    await driver.start()
    await device.set_group_asid(1, 0)
    driver.submit(SET_MAC)
    assert await never_given_back(driver)
    await device.set_group_asid(1, 1)
    driver.commands.kick()
    await driver.commands.wait()


async def test_config_write(device):
    await device.set_config(0, MAC)
    assert await address(device) == MAC


async def test_ring_resized_while_running(device, driver):
    await driver.start()
    await device.set_vring_num(2, 32)
    for _ in range(33):
        assert await driver.command(SET_MAC) == OK


async def test_descriptor_table_misaligned(device):
    await device.set_vring_addr(0, RingAddresses(8, 0, 0))


async def test_used_ring_that_cannot_be_written(device, driver):
    await driver.start()
    arena = driver.control
    await device.iotlb(1, [Unmap(arena.iova, 1), arena.mapping(Access.READ)])
    driver.submit(SET_MAC)
    assert await never_given_back(driver)
    # not even the ack could be written, and yet
    assert await address(device) == MAC
    await device.iotlb(1, [Unmap(arena.iova, 1), arena.mapping()])
    driver.commands.kick()
    assert await never_given_back(driver)


async def test_ring_taken_over(device, driver):
    await driver.start()
    for command in (SET_OTHER, SET_OTHER, SET_MAC):
        assert await driver.command(command) == OK
    await device.suspend()
    await device.set_config(0, OTHER)
    await device.set_vring_base(2, 2)
    for enable in (False, True):
        await device.set_vring_enable(2, enable=enable)
    await device.resume()
    driver.commands.kick()
    await driver.commands.called()
    # served once more, and its used element lies over the one before
    assert await address(device) == MAC
    assert driver.commands.ring.used_index == 3
    assert driver.commands.poll() is None


async def test_ring_moved_while_suspended(device, driver):
    await driver.start()
    await device.suspend()
    driver.build_rings()
    await driver.bind([driver.commands])
    await device.resume()
    driver.submit(SET_MAC)
    assert await never_given_back(driver)
    for enable in (False, True):
        await device.set_vring_enable(2, enable=enable)
    driver.commands.kick()
    await driver.commands.wait()
    assert await address(device) == MAC


async def test_kick_of_one_ring(device, driver):
    await driver.negotiate(2**64 - 1)
    await driver.map()
    driver.build_rings()
    await driver.bind()
    for ring in driver.rings:
        await device.set_vring_enable(ring.index, enable=True)
    # lost, and made good by another ring's kick
    driver.submit(SET_MAC)
    assert await never_given_back(driver)
    await device.set_status(NEGOTIATED | Status.DRIVER_OK)
    await driver.send(frame(BROADCAST))
    assert await driver.commands.wait() == (0, 1)


async def test_kick_after_reset(device, driver):
    await driver.start()
    await device.set_status(0)
    await driver.negotiate(2**64 - 1)
    await device.set_group_asid(1, 1)
    commands = driver.commands
    await device.set_vring_num(2, commands.num)
    await device.set_vring_addr(2, commands.addresses)
    await device.set_vring_call(2, commands.call_fd)
    await driver.enable()
    assert await driver.command(SET_MAC) == OK


async def test_ring_that_makes_no_sense(driver):
    await driver.start()
    driver.commands.ring.put_available(0, 0x4000)
    driver.commands.ring.available_index = 1
    driver.commands.kick()
    assert await never_given_back(driver)
    driver.commands.ring.available_index = 0
    assert await driver.command(SET_MAC) == OK


async def test_address_after_reset(device, driver):
    await driver.start()
    assert await driver.command(SET_MAC) == OK
    await device.set_status(0)
    assert await address(device) == MAC


@pytest.mark.parametrize("length", range(6))
async def test_short_address(device, driver, length):
    await driver.start()
    assert await driver.command(SET_MAC[: 2 + length]) == ERR
    assert await address(device) == MAC[:length] + OTHER[length:]


async def test_long_address(device, driver):
    await driver.start()
    assert await driver.command(SET_MAC + b"\0") == OK
    assert await address(device) == MAC


async def test_unknown_command_behind_a_good_one(driver):
    await driver.start()
    acks = []
    for command in (SET_MAC, b"\x63\x00"):
        acks.append(driver.control.put(b"\xff"))
        driver.commands.add(
            [Buffer(driver.control.put(command), len(command)), Buffer(acks[-1], 1, writable=True)]
        )
    driver.commands.kick()
    for _ in acks:
        await driver.commands.wait()
    assert [driver.control.view(ack, 1)[0] for ack in acks] == [OK, OK]


async def test_command_without_a_header(driver):
    await driver.start()
    driver.submit(b"\x01")
    assert await never_given_back(driver)


async def test_command_that_cannot_be_read(driver):
    await driver.start()
    ack = driver.control.put(b"\xff")
    driver.commands.add([Buffer(1 << 50, 2), Buffer(ack, 1, writable=True)])
    driver.commands.kick()
    assert await never_given_back(driver)


async def test_ack_that_cannot_be_written(device, driver):
    await driver.start()
    command = Buffer(driver.control.put(SET_MAC), 8)
    assert await exchange(driver, [command, Buffer(1 << 50, 1, writable=True)]) == 0xFFFF_FFF2
    assert await address(device) == MAC


async def test_command_not_negotiated(device, driver):
    await driver.start(~Feature.CTRL_MAC_ADDR.mask)
    assert await driver.command(SET_MAC) == OK
    assert await address(device) == MAC


async def test_address_with_a_zero_byte(driver):
    await driver.start()
    assert await driver.command(MacAddrSet(bytes.fromhex("525400aabbcc")).encode()) == OK
    driver.fill()
    await driver.send(frame(bytes.fromhex("525400aabbcd")))
    assert len(driver.received()) == 1


async def test_buffer_too_small(driver):
    await driver.start()
    driver.fill(buffers=1, size=40)
    await driver.send(frame(BROADCAST))
    assert driver.receive[0].poll() == (0, 40)


async def test_packet_header(driver):
    await driver.start()
    (into,) = driver.fill(buffers=1)
    packet = driver.data.put(b"\xff" * len(NET_HEADER) + frame(BROADCAST))
    driver.transmit[0].add([Buffer(packet, 72)])
    driver.transmit[0].kick()
    await driver.transmit[0].wait()
    assert bytes(driver.data.view(into, 12)) == b"\xff" * 12


async def test_config_interrupt(device, driver):
    await driver.start()
    call = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    await device.set_config_call(call)
    assert await driver.command(SET_MAC) == OK
    assert await address(device) == MAC
    with pytest.raises(BlockingIOError):
        os.eventfd_read(call)
    await device.set_config_call(-1)
    os.close(call)
