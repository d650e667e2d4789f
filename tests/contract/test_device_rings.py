"""Contract: ring state, notifications, the control queue, suspend, resume and reset."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cvqd.errors import DeviceError
from cvqd.testing.device_driver import DeviceDriver
from cvqd.testing.driver_ring import Buffer
from cvqd.wire.net_config import OFFSET_MAC
from cvqd.wire.net_control import ERR, OK, MacAddrSet
from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.virtio import Status

MAC = bytes.fromhex("525411223344")
OTHER_MAC = bytes.fromhex("525411223355")
SET_MAC = MacAddrSet(MAC).encode()
BROADCAST = b"\xff" * 6
NO_SUCH_RING = 3


def refused(number: int):
    return pytest.raises(DeviceError, check=lambda error: error.errno == number)


def frame(destination: bytes, payload: bytes = b"payload") -> bytes:
    return destination + OTHER_MAC + b"\x88\xb5" + payload.ljust(46, b".")


async def test_every_ring_call_knows_how_many_rings_there_are(device):
    calls = (
        device.get_vring_group(NO_SUCH_RING),
        device.set_vring_num(NO_SUCH_RING, 64),
        device.set_vring_addr(NO_SUCH_RING, RingAddresses(0, 0, 0)),
        device.set_vring_base(NO_SUCH_RING, 0),
        device.get_vring_base(NO_SUCH_RING),
        device.set_vring_kick(NO_SUCH_RING, -1),
        device.set_vring_call(NO_SUCH_RING, -1),
        device.set_vring_enable(NO_SUCH_RING, enable=True),
    )
    for call in calls:
        with refused(errno.ENOBUFS):
            await call


@pytest.mark.parametrize("num", [0, 3, 100, 65536])
async def test_a_ring_has_a_power_of_two_of_descriptors(device, num):
    with refused(errno.EINVAL):
        await device.set_vring_num(0, num)


async def test_a_ring_has_no_more_descriptors_than_the_device_allows(device):
    most = await device.get_vring_num()
    await device.set_vring_num(0, most)
    # since 7.3 and its stable branches, drivers/vhost/vdpa.c
    with refused(errno.EINVAL):
        await device.set_vring_num(0, 2 * most)


@pytest.mark.parametrize("addresses", [RingAddresses(0, 1, 0), RingAddresses(0, 0, 2)])
async def test_ring_parts_are_aligned(device, addresses):
    with refused(errno.EINVAL):
        await device.set_vring_addr(0, addresses)


async def test_a_base_has_16_bits_and_is_read_back(device):
    await device.set_vring_base(0, 65535)
    assert await device.get_vring_base(0) == 65535
    with refused(errno.EINVAL):
        await device.set_vring_base(0, 65536)


async def test_notifications_are_eventfds(device):
    reader, writer = os.pipe()
    try:
        for bind in (device.set_vring_kick, device.set_vring_call):
            with refused(errno.EINVAL):
                await bind(0, reader)
            with refused(errno.EBADF):
                await bind(0, 1 << 20)
        with refused(errno.EINVAL):
            await device.set_config_call(writer)
        with refused(errno.EBADF):
            await device.set_config_call(1 << 20)
    finally:
        os.close(reader)
        os.close(writer)


async def test_unbinding_what_is_not_bound_is_harmless(device):
    await device.set_vring_kick(0, -1)
    await device.set_vring_call(0, -1)
    await device.set_config_call(-1)


async def test_the_address_command_is_obeyed_and_shows_in_the_configuration(driver, device, features):
    await driver.start(features)
    ack = driver.submit(SET_MAC)
    _, written = await driver.commands.wait()
    assert written == 1
    assert driver.control.view(ack, 1)[0] == OK
    assert await device.get_config(OFFSET_MAC, 6) == MAC


@pytest.mark.parametrize("command", [b"\x01\x00", b"\x09\x00", b"\xff\xff", b"\x02\x00\x05\x00"])
async def test_a_command_the_device_does_not_serve_is_an_error(driver, features, command):
    await driver.start(features)
    assert await driver.command(command) == ERR
    assert await driver.command(SET_MAC) == OK


async def test_commands_are_answered_in_order(driver, device, features):
    await driver.start(features)
    for last in range(1, 33):
        driver.submit(MacAddrSet(MAC[:5] + bytes((last,))).encode())
    heads = [await driver.commands.wait() for _ in range(32)]
    assert heads == [(2 * place, 1) for place in range(32)]
    assert await device.get_config(OFFSET_MAC, 6) == MAC[:5] + b"\x20"


async def test_the_control_queue_runs_while_data_queues_are_disabled(driver, device, features):
    await driver.negotiate(features)
    await driver.map()
    driver.build_rings()
    await driver.bind()
    await device.set_vring_enable(2, enable=True)
    await device.set_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK)
    assert await driver.command(SET_MAC) == OK
    # ENABLE_AFTER_DRIVER_OK
    await device.set_vring_enable(0, enable=True)
    await device.set_vring_enable(1, enable=True)
    driver.fill()
    await driver.send(frame(BROADCAST))
    await driver.receive[0].called()
    assert driver.received() == [frame(BROADCAST)]


async def test_a_kick_before_driver_ok_is_lost(driver, device, features, settle):
    await driver.negotiate(features)
    await driver.map()
    driver.build_rings()
    await driver.bind()
    for ring in driver.rings:
        await device.set_vring_enable(ring.index, enable=True)
    driver.submit(SET_MAC)
    await settle()
    await device.set_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK)
    await settle()
    assert driver.commands.poll() is None
    driver.commands.kick()
    assert (await driver.commands.wait())[1] == 1


async def test_a_kick_on_a_disabled_ring_is_lost(driver, device, features, settle):
    await driver.start(features)
    await device.set_vring_enable(2, enable=False)
    driver.submit(SET_MAC)
    await settle()
    await device.set_vring_enable(2, enable=True)
    await settle()
    assert driver.commands.poll() is None
    driver.commands.kick()
    assert (await driver.commands.wait())[1] == 1


async def test_an_eventfd_that_is_signalled_already_kicks_when_it_is_bound(driver, device, features):
    await driver.start(features)
    await device.set_vring_kick(2, -1)
    driver.submit(SET_MAC)
    await device.set_vring_kick(2, driver.commands.kick_fd)
    assert (await driver.commands.wait())[1] == 1


async def test_a_ring_may_not_move_while_it_may_be_running(driver, device, features):
    await driver.start(features)
    ring = driver.commands
    with refused(errno.EINVAL):
        await device.set_vring_addr(2, ring.addresses)
    with refused(errno.EINVAL):
        await device.set_vring_base(2, 0)
    await device.suspend()
    await device.set_vring_addr(2, ring.addresses)
    await device.set_vring_base(2, 0)


async def test_a_suspended_device_does_nothing_and_its_base_is_the_used_index(
    driver, device, features, settle
):
    await driver.start(features)
    for _ in range(3):
        assert await driver.command(SET_MAC) == OK
    await device.suspend()
    driver.submit(MacAddrSet(OTHER_MAC).encode())
    await settle()
    assert driver.commands.poll() is None
    assert await device.get_vring_base(2) == 3
    assert await device.get_config(OFFSET_MAC, 6) == MAC
    assert await device.get_status() & Status.DRIVER_OK


async def test_resume_serves_the_kick_that_came_meanwhile(driver, device, features, settle):
    await driver.start(features)
    await device.suspend()
    driver.submit(SET_MAC)
    await settle()
    await device.resume()
    assert (await driver.commands.wait())[1] == 1
    assert await device.get_vring_base(2) == 1


async def test_suspend_and_resume_can_be_repeated(driver, device, features):
    await driver.start(features)
    await device.suspend()
    await device.suspend()
    await device.resume()
    await device.resume()
    assert await driver.command(SET_MAC) == OK


async def test_suspend_before_driver_ok_has_no_effect(driver, device, features):
    await device.suspend()
    await device.resume()
    await device.suspend()
    await driver.start(features)
    assert await driver.command(SET_MAC) == OK


async def test_a_reset_forgets_the_rings_but_not_the_backend_features(driver, device, features):
    await driver.start(features)
    assert await driver.command(SET_MAC) == OK
    assert await device.get_vring_base(2) == 1
    await device.set_status(0)
    assert await device.get_status() == 0
    assert await device.get_vring_base(2) == 0
    await device.set_group_asid(1, 1)
    await device.iotlb(1, [])


async def test_a_device_can_be_started_again_after_a_reset(driver, features):
    for _ in range(3):
        await driver.start(features)
        assert await driver.command(SET_MAC) == OK
        await driver.stop()


async def test_frames_to_the_own_address_and_to_everybody_come_back_and_others_do_not(
    driver, features, settle
):
    await driver.start(features)
    assert await driver.command(SET_MAC) == OK
    driver.fill()
    # differs in the first byte, because the kernel's comparison stops at a zero byte
    await driver.send(frame(b"\x5a" + MAC[1:]))
    await driver.send(frame(MAC, b"mine"))
    await driver.send(frame(BROADCAST, b"everybody's"))
    await driver.send(frame(b"\x01\x00\x5e\x01\x02\x03", b"some's"))
    await settle()
    payloads = [bytes(received[14:]).rstrip(b".") for received in driver.received()]
    assert payloads == [b"mine", b"everybody's", b"some's"]


async def test_a_frame_that_cannot_be_read_is_dropped_and_given_back(driver, features):
    await driver.start(features)
    driver.fill()
    driver.transmit[0].add([Buffer(1 << 50, 72)])
    driver.transmit[0].kick()
    assert (await driver.transmit[0].wait())[1] == 0
    await driver.send(frame(b"\xff" * 6))
    assert driver.received() == [frame(b"\xff" * 6)]


async def test_no_descriptor_is_left_behind(device, features):
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    for _ in range(3):
        driver = DeviceDriver(device)
        await driver.start(features)
        assert await driver.command(SET_MAC) == OK
        await driver.stop()
        del driver
    assert descriptors() == before


async def test_a_kick_is_not_lost_in_whatever_call_follows_it(driver, device, features):
    await driver.start(features)
    driver.submit(SET_MAC)
    await device.set_vring_enable(0, enable=False)
    await device.set_vring_kick(1, -1)
    await driver.commands.wait()
    await device.suspend()
    driver.submit(SET_MAC)
    await device.resume()
    await device.set_vring_enable(0, enable=True)
    await driver.commands.wait()
