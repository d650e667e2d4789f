"""Where the simulator is deliberately not the kernel's simulator: one list, one test per entry.

The left column is what ``drivers/vdpa/vdpa_sim`` and ``drivers/vhost`` of Linux
6.12.117 do, the right one what ours does.  An entry without a test, or a test
without an entry, fails.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio.testing

from cvqd.errors import DeviceError
from cvqd.host import shared_memory
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import SimulatorSpec
from cvqd.testing.device_driver import NET_HEADER, DeviceDriver
from cvqd.testing.driver_ring import Buffer
from cvqd.testing.events import EventRecorder
from cvqd.wire.net_control import ERR, OK, MacAddrSet
from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_vdpa import Access, BatchMark, Map, Unmap
from cvqd.wire.virtio import Feature, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DIFFERENCES = {
    # memory
    "empty_address_space": ("lets the device reach everything", "translates nothing"),
    "empty_invalidation": ("is not checked and may flush the address space", "EINVAL"),
    "mapping_behind_the_region": ("maps what there is", "EFAULT"),
    "mapping_without_permission": ("is accepted", "EFAULT"),
    "ring_part_in_two_mappings": ("is followed", "is not served: a ring lies in one region"),
    # negotiation
    "features_not_offered": ("are masked without a word", "EINVAL"),
    "features_without_version_1": ("make a legacy device", "EINVAL"),
    "features_without_what_they_need": ("are accepted", "EINVAL"),
    "features_ok_without_features": ("stays set", "does not stick"),
    "driver_ok_without_features_ok": ("starts the device", "EINVAL"),
    "group_moved_after_driver_ok": ("is moved (EBUSY since 7.0)", "EBUSY"),
    "config_write": ("changes the configuration, the address too", "changes nothing"),
    # rings
    "ring_resized_while_running": ("is accepted and takes effect later", "EINVAL"),
    "descriptor_table_misaligned": ("is accepted", "EINVAL"),
    "used_ring_that_cannot_be_written": ("is obeyed and never answered", "is not served"),
    "ring_taken_over": ("used index is set equal to the base", "goes on at the used index in memory"),
    "ring_moved_while_suspended": ("needs disabling and enabling", "is in effect on resume"),
    "kick_of_one_ring": ("serves all rings", "serves that ring"),
    "kick_after_reset": ("is still listened to", "is unbound"),
    "ring_that_makes_no_sense": ("is tried again at every kick", "is left alone until set up again"),
    # commands
    "address_after_reset": ("is the one last set", "is the configured one"),
    "short_address": ("overwrites the beginning of the address", "changes nothing"),
    "long_address": ("is obeyed", "is refused"),
    "unknown_command_behind_a_good_one": ("inherits its OK", "is an error"),
    "command_without_a_header": ("is never given back", "is answered ERR"),
    "command_that_cannot_be_read": ("is never given back", "is given back, used length 0"),
    "ack_that_cannot_be_written": ("used length 0xfffffff2, obeyed", "used length 0, not obeyed"),
    "command_not_negotiated": ("is obeyed", "is refused"),
    # frames and interrupts
    "address_with_a_zero_byte": ("is compared up to there", "is compared whole"),
    "buffer_too_small": ("is filled with a cut frame", "is given back empty"),
    "packet_header": ("comes back as it was sent", "is written anew"),
    "config_interrupt": ("never happens", "announces status changes"),
}

MAC = bytes.fromhex("525411223344")
SET_MAC = MacAddrSet(MAC).encode()
BROADCAST = b"\xff" * 6
NEGOTIATED = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK
PAGE = 4096


def refused(number: int):
    return pytest.raises(DeviceError, check=lambda error: error.errno == number)


def frame(destination: bytes) -> bytes:
    return (destination + MAC + b"\x88\xb5").ljust(60, b".")


@pytest.fixture
async def device(nursery) -> AsyncIterator[SimulatedDevice]:
    # shadows the contract's: these tests are about the simulator wherever they run
    device = await SimulatedDevice.open(SimulatorSpec(), EventRecorder(), nursery)
    yield device
    await device.aclose()


@pytest.fixture
async def driver(device):
    async with DeviceDriver(device) as driver:
        yield driver


@pytest.fixture
def region():
    return shared_memory.create("differences", 4 * PAGE)


async def exchange(driver, parts: list[Buffer]) -> int:
    driver.commands.add(parts)
    driver.commands.kick()
    return (await driver.commands.wait())[1]


def test_the_list_and_the_tests_are_the_same():
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert tests - {"the_list_and_the_tests_are_the_same"} == set(DIFFERENCES)


async def test_empty_address_space(device, driver):
    await driver.negotiate(2**64 - 1)
    driver.build_rings()
    await driver.bind()
    await driver.enable()
    driver.submit(SET_MAC)
    await trio.testing.wait_all_tasks_blocked()
    assert driver.commands.poll() is None
    assert device.statistics.iotlb_faults == {2: 1}


async def test_empty_invalidation(device, region):
    await device.iotlb(0, [Map(PAGE, PAGE, region, 0, Access.READ_WRITE)])
    with refused(errno.EINVAL):
        await device.iotlb(0, [Unmap(0, 0)])
    with refused(errno.EFAULT):
        await device.iotlb(0, [Map(PAGE, PAGE, region, 0, Access.READ_WRITE)])


async def test_mapping_behind_the_region(device, region):
    with refused(errno.EFAULT):
        await device.iotlb(0, [Map(0, 4 * PAGE, region, PAGE, Access.READ_WRITE)])


async def test_mapping_without_permission(device, region):
    with refused(errno.EFAULT):
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
    driver.submit(SET_MAC)
    await trio.testing.wait_all_tasks_blocked()
    assert driver.commands.poll() is None
    assert device.statistics.iotlb_faults == {2: 1}
    # for the driver's stop
    await device.iotlb(1, [Unmap(arena.iova, arena.size), arena.mapping()])


async def test_features_not_offered(device):
    with refused(errno.EINVAL):
        await device.set_features(await device.get_features() | Feature.RSS.mask)


async def test_features_without_version_1(device):
    with refused(errno.EINVAL):
        await device.set_features(await device.get_features() & ~Feature.VERSION_1.mask)


async def test_features_without_what_they_need(device):
    with refused(errno.EINVAL):
        await device.set_features(await device.get_features() & ~Feature.CTRL_VQ.mask)


async def test_features_ok_without_features(device):
    await device.set_status(NEGOTIATED)
    assert await device.get_status() == Status.ACKNOWLEDGE | Status.DRIVER


async def test_driver_ok_without_features_ok(device):
    with refused(errno.EINVAL):
        await device.set_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK)


async def test_group_moved_after_driver_ok(device, driver):
    await driver.start()
    with refused(errno.EBUSY):
        await device.set_group_asid(1, 0)
    assert await driver.command(SET_MAC) == OK


async def test_config_write(device):
    before = await device.get_config(0, 24)
    await device.set_config(0, MAC)
    assert await device.get_config(0, 24) == before


async def test_ring_resized_while_running(device, driver):
    await driver.start()
    with refused(errno.EINVAL):
        await device.set_vring_num(2, 32)
    await device.suspend()
    await device.set_vring_num(2, 32)


async def test_descriptor_table_misaligned(device):
    with refused(errno.EINVAL):
        await device.set_vring_addr(0, RingAddresses(8, 0, 0))


async def test_used_ring_that_cannot_be_written(device, driver):
    await driver.start()
    arena = driver.control
    await device.iotlb(1, [Unmap(arena.iova, 1), arena.mapping(Access.READ)])
    driver.submit(SET_MAC)
    await trio.testing.wait_all_tasks_blocked()
    assert await device.get_config(0, 6) == device.spec.mac
    assert device.statistics.iotlb_faults == {2: 1}
    await device.iotlb(1, [Unmap(arena.iova, 1), arena.mapping()])
    driver.commands.kick()
    assert await driver.commands.wait() == (0, 1)


async def test_ring_taken_over(device, driver):
    await driver.start()
    ring = driver.commands
    for _ in range(3):
        assert await driver.command(SET_MAC) == OK
    await device.suspend()
    # fetched by a device that went away, and to be fetched again
    await device.set_vring_base(2, 2)
    await device.resume()
    ring.kick()
    assert await ring.wait() == (4, 1)
    assert ring.ring.used_index == 4


async def test_ring_moved_while_suspended(device, driver):
    await driver.start()
    await device.suspend()
    old = driver.commands
    driver.build_rings()
    await driver.bind([driver.commands])
    await device.resume()
    assert await driver.command(SET_MAC) == OK
    assert old.poll() is None


async def test_kick_of_one_ring(device, driver):
    await driver.negotiate(2**64 - 1)
    await driver.map()
    driver.build_rings()
    await driver.bind()
    for ring in driver.rings:
        await device.set_vring_enable(ring.index, enable=True)
    # lost, and not made good by the other ring's kick
    driver.submit(SET_MAC)
    await trio.testing.wait_all_tasks_blocked()
    await device.set_status(NEGOTIATED | Status.DRIVER_OK)
    await driver.send(frame(BROADCAST))
    assert driver.commands.poll() is None
    driver.commands.kick()
    assert await driver.commands.wait() == (0, 1)


async def test_kick_after_reset(device, driver):
    await driver.start()
    bound = driver.commands.kick_fd
    await device.set_status(0)
    assert bound not in device.net.doorbells.descriptors


async def test_ring_that_makes_no_sense(device, driver):
    await driver.start()
    driver.commands.ring.available_index = 0x4000
    driver.commands.kick()
    await trio.testing.wait_all_tasks_blocked()
    driver.commands.ring.available_index = 0
    driver.submit(SET_MAC)
    await trio.testing.wait_all_tasks_blocked()
    assert driver.commands.poll() is None
    assert device.statistics.broken_rings == {2: 1}


async def test_address_after_reset(device, driver):
    await driver.start()
    assert await driver.command(SET_MAC) == OK
    await device.set_status(0)
    assert await device.get_config(0, 6) == device.spec.mac


@pytest.mark.parametrize("length", range(6))
async def test_short_address(device, driver, length):
    await driver.start()
    assert await driver.command(SET_MAC[: 2 + length]) == ERR
    assert await device.get_config(0, 6) == device.spec.mac


async def test_long_address(device, driver):
    await driver.start()
    assert await driver.command(SET_MAC + b"\0") == ERR
    assert await device.get_config(0, 6) == device.spec.mac


async def test_unknown_command_behind_a_good_one(driver):
    await driver.start()
    acks = [driver.submit(command) for command in (SET_MAC, b"\x63\x00", SET_MAC, b"\x00\x09")]
    for _ in acks:
        await driver.commands.wait()
    assert [driver.control.view(ack, 1)[0] for ack in acks] == [OK, ERR, OK, ERR]


async def test_command_without_a_header(driver):
    await driver.start()
    assert await driver.command(b"\x01") == ERR
    assert await driver.command(SET_MAC) == OK


async def test_command_that_cannot_be_read(device, driver):
    await driver.start()
    ack = driver.control.put(b"\xff")
    assert await exchange(driver, [Buffer(1 << 50, 2), Buffer(ack, 1, writable=True)]) == 0
    assert device.statistics.iotlb_faults == {2: 1}
    assert await driver.command(SET_MAC) == OK


async def test_ack_that_cannot_be_written(device, driver):
    await driver.start()
    command = Buffer(driver.control.put(SET_MAC), 8)
    assert await exchange(driver, [command, Buffer(1 << 50, 1, writable=True)]) == 0
    assert await device.get_config(0, 6) == device.spec.mac


async def test_command_not_negotiated(device, driver):
    await driver.start(~Feature.CTRL_MAC_ADDR.mask)
    assert await driver.command(SET_MAC) == ERR
    assert await device.get_config(0, 6) == device.spec.mac


async def test_address_with_a_zero_byte(driver):
    await driver.start(~Feature.CTRL_RX.mask & ~Feature.CTRL_RX_EXTRA.mask)
    assert await driver.command(MacAddrSet(bytes.fromhex("525400aabbcc")).encode()) == OK
    driver.fill()
    await driver.send(frame(bytes.fromhex("525400aabbcd")))
    assert driver.received() == []
    await driver.send(frame(bytes.fromhex("525400aabbcc")))
    assert len(driver.received()) == 1


async def test_buffer_too_small(driver):
    await driver.start()
    driver.fill(buffers=1, size=40)
    await driver.send(frame(BROADCAST))
    assert driver.receive[0].poll() == (0, 0)


async def test_packet_header(driver):
    await driver.start()
    (into,) = driver.fill(buffers=1)
    packet = driver.data.put(b"\xff" * len(NET_HEADER) + frame(BROADCAST))
    driver.transmit[0].add([Buffer(packet, 72)])
    driver.transmit[0].kick()
    await driver.transmit[0].wait()
    assert bytes(driver.data.view(into, 12)) == bytes(10) + b"\x01\x00"


async def test_config_interrupt(device, driver):
    await driver.start()
    call = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    await device.set_config_call(call)
    device.announce()
    assert os.eventfd_read(call) == 1
    device.set_link(up=False)
    assert os.eventfd_read(call) == 1
    await device.set_config_call(-1)
    os.close(call)
