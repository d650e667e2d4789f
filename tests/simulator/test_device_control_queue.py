"""The device's control queue over rings: bad chains, planned faults, announcements, many pairs."""

# ruff: noqa: ARG001 -- a clock is had by naming it

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from cvqd.simulator.cvq import BUDGET, MAX_REQUEST
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import Fault, FaultAction, Groups, SimulatorSpec
from cvqd.testing.device_driver import USUAL_FEATURES, DeviceDriver
from cvqd.testing.driver_ring import Buffer, DriverRing
from cvqd.wire import net_config
from cvqd.wire.net_control import ERR, OK, AnnounceAck, MacAddrSet, MacTableSet, VlanAdd, VqPairsSet
from cvqd.wire.split_ring import DESC_INDIRECT, DESC_NEXT, Descriptor
from cvqd.wire.vhost_vdpa import Unmap
from cvqd.wire.virtio import Feature, mask_of

MAC = bytes.fromhex("525411223344")
SET_MAC = MacAddrSet(MAC).encode()
ADD_VLAN = VlanAdd(5).encode()


async def works(driver) -> bool:
    return await driver.command(SET_MAC) == OK


def buffers(driver, readable: bytes | None, writable: int | None) -> list[Buffer]:
    parts = []
    if readable is not None:
        parts.append(Buffer(driver.control.put(readable), len(readable)))
    if writable is not None:
        parts.append(Buffer(driver.control.allocate(writable), writable, writable=True))
    return parts


async def exchange(driver, parts: list[Buffer]) -> int:
    driver.commands.add(parts)
    driver.commands.kick()
    return (await driver.commands.wait())[1]


async def test_any_split_of_a_command_is_the_same_command(drive):
    driver = await drive()
    where = driver.control.put(SET_MAC)
    ack = driver.control.put(b"\xff")
    bytewise = [Buffer(where + place, 1) for place in range(len(SET_MAC))]
    assert await exchange(driver, [*bytewise, Buffer(ack, 1, writable=True)]) == 1
    assert driver.control.view(ack, 1)[0] == OK


@pytest.mark.parametrize("readable", [b"\x01", None], ids=["one byte", "nothing"])
async def test_a_command_without_a_whole_header_is_answered(drive, readable):
    driver = await drive()
    parts = buffers(driver, readable, 1)
    assert await exchange(driver, parts) == 1
    assert driver.control.view(parts[-1].iova, 1)[0] == ERR
    assert await works(driver)


async def test_a_command_without_room_for_its_ack_is_given_back_unobeyed(drive):
    driver = await drive()
    assert await exchange(driver, buffers(driver, SET_MAC, None)) == 0
    assert driver.device.net.control.state.mac != MAC
    assert driver.device.statistics.cvq_errors == 1
    assert await works(driver)


async def test_a_command_longer_than_any_is_refused(drive):
    driver = await drive()
    count = MAX_REQUEST // 6 + 1
    command = MacTableSet((MAC,) * count, ()).encode()
    parts = buffers(driver, command, 1)
    assert await exchange(driver, parts) == 1
    assert driver.control.view(parts[-1].iova, 1)[0] == ERR
    assert not driver.device.net.control.state.unicast


async def test_the_ack_goes_to_the_first_writable_byte_and_nowhere_else(drive):
    driver = await drive()
    reply = driver.control.put(b"\xee" * 8)
    assert await exchange(driver, [*buffers(driver, SET_MAC, None), Buffer(reply, 8, writable=True)]) == 1
    assert bytes(driver.control.view(reply, 8)) == b"\x00" + b"\xee" * 7


BAD_CHAINS = {
    "chain.loop": [Descriptor(0, 8, DESC_NEXT, 0)],
    "chain.next": [Descriptor(0, 8, DESC_NEXT, 999)],
    "chain.empty_segment": [Descriptor(0, 0, 0, 0)],
    "chain.indirect": [Descriptor(0, 16, DESC_INDIRECT, 0)],
    "memory.unmapped": [Descriptor(0xDEAD_0000_0000, 8, 0, 0)],
    "memory.unmapped at the end": [Descriptor(0, 2**32 - 1, 0, 0)],
}


@pytest.mark.parametrize("name", BAD_CHAINS)
async def test_a_bad_chain_is_counted_reported_and_given_back(drive, log, name):
    driver = await drive()
    where = driver.control.put(SET_MAC)
    for slot, descriptor in enumerate(BAD_CHAINS[name]):
        address = descriptor.address or where
        driver.commands.ring.put_descriptor(slot, descriptor._replace(address=address))
    driver.commands.publish(0)
    driver.commands.kick()
    assert await driver.commands.wait() == (0, 0)
    statistics = driver.device.statistics
    reason = name.split(" ", maxsplit=1)[0]
    counted = statistics.iotlb_faults if reason.startswith("memory.") else statistics.malformed_chains
    assert counted == {2: 1}
    event = "simulator.access.refused" if reason.startswith("memory.") else "simulator.chain.malformed"
    assert [fields["reason"] for fields in log.of(event)] == [reason]
    assert await works(driver)


async def test_readable_behind_writable_is_an_error_that_is_answered(drive):
    driver = await drive()
    ack, command = driver.control.put(b"\xff"), driver.control.put(SET_MAC)
    parts = [Buffer(command, 2), Buffer(ack, 1, writable=True), Buffer(command + 2, 6)]
    assert await exchange(driver, parts) == 1
    assert driver.control.view(ack, 1)[0] == ERR
    assert await works(driver)


@pytest.mark.parametrize("damage", ["index", "head"])
async def test_a_ring_that_makes_no_sense_is_left_alone_until_it_is_set_up_again(drive, log, damage):
    driver = await drive()
    ring = driver.commands
    if damage == "index":
        ring.ring.available_index = 0x4000
    else:
        ring.ring.put_available(0, 500)
        ring.ring.available_index = 1
    for _ in range(3):
        ring.kick()
        await trio.testing.wait_all_tasks_blocked()
    assert driver.device.statistics.broken_rings == {2: 1}
    assert [fields["queue"] for fields in log.of("simulator.ring.broken")] == [2]
    ring.ring.available_index = 0
    await driver.device.set_vring_enable(2, enable=False)
    await driver.device.set_vring_enable(2, enable=True)
    assert await works(driver)


async def test_a_ring_outside_its_address_space_is_counted_and_served_once_it_is_mapped(drive):
    driver = await drive()
    device = driver.device
    await device.iotlb(1, [driver.control.mapping()._replace(iova=1 << 40)])
    await device.iotlb(1, [Unmap(driver.control.iova, 1)])
    driver.submit(SET_MAC)
    await trio.testing.wait_all_tasks_blocked()
    assert device.statistics.iotlb_faults == {2: 1}
    assert driver.commands.poll() is None
    await device.iotlb(1, [driver.control.mapping()])
    driver.commands.kick()
    assert await driver.commands.wait() == (0, 1)


async def test_a_ring_goes_on_where_it_was_when_its_memory_is_mapped_anew(drive):
    driver = await drive()
    for _ in range(3):
        assert await works(driver)
    await driver.device.iotlb(1, [Unmap(driver.control.iova, 1), driver.control.mapping()])
    assert await driver.device.get_vring_base(2) == 3
    assert await works(driver)
    assert driver.commands.ring.used_index == 4


# planned faults


async def test_a_planned_error_is_answered_and_not_obeyed(drive, log):
    driver = await drive(faults=(Fault("mac.addr_set", FaultAction.ERR),))
    assert await driver.command(SET_MAC) == ERR
    assert await driver.device.get_config(0, 6) == driver.device.spec.mac
    assert await works(driver)
    assert log.of("simulator.fault.injected") == [{"command": "mac.addr_set", "action": "err"}]
    assert driver.device.statistics.injected_faults == {"err": 1}


async def test_a_dropped_command_is_never_answered_and_later_ones_are(drive):
    driver = await drive(faults=(Fault("mac.addr_set", FaultAction.DROP),))
    driver.submit(SET_MAC)
    assert await driver.command(ADD_VLAN) == OK
    await trio.testing.wait_all_tasks_blocked()
    assert driver.commands.poll() is None
    assert await driver.device.get_vring_base(2) == 2


async def test_a_late_answer_holds_nobody_up(autojump_clock, drive):
    driver = await drive(faults=(Fault("mac.addr_set", FaultAction.DELAY, delay=5.0),))
    started = trio.current_time()
    ack = driver.submit(SET_MAC)
    assert await driver.command(ADD_VLAN) == OK
    assert trio.current_time() == started
    # obeyed in order, only the answer is late
    assert await driver.device.get_config(0, 6) == MAC
    assert driver.control.view(ack, 1)[0] == 0xFF
    assert await driver.commands.wait() == (0, 1)
    assert trio.current_time() == pytest.approx(started + 5.0)
    assert driver.control.view(ack, 1)[0] == OK


async def test_late_answers_come_in_the_order_they_are_due(autojump_clock, drive):
    driver = await drive(
        faults=(
            Fault("mac.addr_set", FaultAction.DELAY, delay=3.0),
            Fault("vlan.add", FaultAction.DELAY, delay=1.0),
        )
    )
    driver.submit(SET_MAC)
    driver.submit(ADD_VLAN)
    assert [(await driver.commands.wait())[0] for _ in range(2)] == [2, 0]


async def test_a_suspended_device_keeps_its_late_answers(autojump_clock, drive):
    driver = await drive(faults=(Fault("mac.addr_set", FaultAction.DELAY, delay=1.0),))
    ack = driver.submit(SET_MAC)
    await trio.testing.wait_all_tasks_blocked()
    await driver.device.suspend()
    await trio.sleep(10)
    assert driver.commands.poll() is None
    await driver.device.resume()
    await driver.commands.wait()
    assert driver.control.view(ack, 1)[0] == OK


async def test_a_reset_forgets_late_answers(autojump_clock, drive):
    driver = await drive(faults=(Fault("mac.addr_set", FaultAction.DELAY, delay=1.0),))
    ack = driver.submit(SET_MAC)
    await trio.testing.wait_all_tasks_blocked()
    await driver.stop()
    await driver.start()
    await trio.sleep(10)
    assert driver.control.view(ack, 1)[0] == 0xFF
    assert driver.commands.poll() is None


async def test_a_disabled_ring_takes_no_late_answer(autojump_clock, drive):
    driver = await drive(faults=(Fault("mac.addr_set", FaultAction.DELAY, delay=1.0),))
    ack = driver.submit(SET_MAC)
    await trio.testing.wait_all_tasks_blocked()
    await driver.device.set_vring_enable(2, enable=False)
    await trio.sleep(10)
    assert driver.control.view(ack, 1)[0] == 0xFF
    assert driver.commands.poll() is None


async def test_a_late_answer_does_not_mind_what_happens_to_the_data_rings_memory(autojump_clock, drive):
    driver = await drive(faults=(Fault("mac.addr_set", FaultAction.DELAY, delay=1.0),))
    ack = driver.submit(SET_MAC)
    await trio.testing.wait_all_tasks_blocked()
    more = driver.data.mapping()._replace(iova=1 << 40)
    await driver.device.iotlb(0, [more, Unmap(more.iova, more.size)])
    assert (await driver.commands.wait())[1] == 1
    assert driver.control.view(ack, 1)[0] == OK


async def test_a_late_answer_does_not_reach_memory_that_was_taken_away(autojump_clock, drive):
    driver = await drive(faults=(Fault("mac.addr_set", FaultAction.DELAY, delay=1.0),))
    ack = driver.submit(SET_MAC)
    await trio.testing.wait_all_tasks_blocked()
    await driver.device.iotlb(1, [Unmap(driver.control.iova, 1)])
    await trio.sleep(10)
    assert driver.control.view(ack, 1)[0] == 0xFF
    assert driver.commands.poll() is None
    assert driver.device.statistics.iotlb_faults == {2: 1}


async def test_an_answer_given_twice_is_two_used_elements(drive):
    driver = await drive(faults=(Fault("mac.addr_set", FaultAction.TWICE),))
    driver.submit(SET_MAC)
    assert [await driver.commands.wait() for _ in range(2)] == [(0, 1), (0, 1)]
    assert await driver.device.get_config(0, 6) == MAC


async def test_a_wrong_id_names_another_chain(drive):
    driver = await drive(faults=(Fault("*", FaultAction.WRONG_ID),))
    driver.submit(SET_MAC)
    assert await driver.commands.wait() == (1, 1)


async def test_a_zero_length_answer_writes_nothing(drive):
    driver = await drive(faults=(Fault("*", FaultAction.ZERO_LENGTH),))
    ack = driver.submit(SET_MAC)
    assert await driver.commands.wait() == (0, 0)
    assert driver.control.view(ack, 1)[0] == 0xFF


# announcements, link, pairs


@pytest.fixture
def config_call():
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


async def status(device) -> int:
    return net_config.decode(await device.get_config(0, 24)).status


async def test_an_announcement_is_asked_for_and_acknowledged(drive, config_call):
    driver = await drive()
    device = driver.device
    await device.set_config_call(config_call)
    device.announce()
    assert os.eventfd_read(config_call) == 1
    assert await status(device) == net_config.LinkStatus.LINK_UP | net_config.LinkStatus.ANNOUNCE
    assert await driver.command(AnnounceAck().encode()) == OK
    assert await status(device) == net_config.LinkStatus.LINK_UP
    await device.set_config_call(-1)


async def test_nobody_is_asked_to_announce_who_did_not_negotiate_it(drive, config_call):
    driver = await drive(features=~Feature.GUEST_ANNOUNCE.mask)
    await driver.device.set_config_call(config_call)
    driver.device.announce()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(config_call)
    assert await status(driver.device) == net_config.LinkStatus.LINK_UP
    await driver.device.set_config_call(-1)


async def test_the_link_can_be_pulled(drive, config_call):
    driver = await drive()
    await driver.device.set_config_call(config_call)
    driver.device.set_link(up=True)
    driver.device.set_link(up=False)
    assert os.eventfd_read(config_call) == 1
    assert await status(driver.device) == 0
    await driver.device.set_status(0)
    assert await status(driver.device) == 0
    await driver.device.set_config_call(-1)


@pytest.mark.parametrize("groups", Groups)
@pytest.mark.parametrize("pairs", [2, 8, 32])
async def test_the_control_queue_is_the_last_ring_of_a_multiqueue_device(drive, groups, pairs):
    if groups is Groups.SINGLE:
        driver = await drive(max_queue_pairs=pairs, groups=groups, address_spaces=1)
    else:
        driver = await drive(max_queue_pairs=pairs, groups=groups)
    assert driver.commands.index == 2 * pairs
    assert await driver.command(VqPairsSet(pairs).encode()) == OK
    assert await driver.command(VqPairsSet(pairs + 1).encode()) == ERR


async def test_a_driver_that_declines_mq_finds_the_control_queue_at_index_2(simulate):
    device = await simulate(max_queue_pairs=4)
    # ring 2 is in the data rings' group: the control queue cannot be isolated any more
    async with DeviceDriver(device, max_pairs=4, isolated=False) as driver:
        await driver.start(USUAL_FEATURES & ~mask_of(Feature.MQ, Feature.RSS))
        assert driver.commands.index == 2
        assert await device.get_vring_group(2) == await device.get_vring_group(0)
        assert await works(driver)
        assert await driver.command(VqPairsSet(1).encode()) == ERR


async def test_a_driver_without_ctrl_vq_has_no_command_served(simulate):
    device = await simulate()
    async with DeviceDriver(device) as driver:
        await driver.negotiate(
            Feature.VERSION_1.mask | Feature.ACCESS_PLATFORM.mask | Feature.MAC.mask | Feature.STATUS.mask
        )
        await driver.map()
        driver.build_rings()
        driver.commands = DriverRing(driver.control, 2)
        await driver.bind()
        await driver.enable()
        driver.submit(SET_MAC)
        await trio.testing.wait_all_tasks_blocked()
        assert driver.commands.poll() is None


async def test_one_call_announces_a_batch(drive):
    driver = await drive()
    for last in range(8):
        driver.submit(MacAddrSet(MAC[:5] + bytes((last,))).encode())
    await trio.testing.wait_all_tasks_blocked()
    assert os.eventfd_read(driver.commands.call_fd) == 1
    assert len([driver.commands.poll() for _ in range(8)]) == 8


async def test_a_full_call_counter_does_not_stop_the_device(drive):
    driver = await drive()
    os.set_blocking(driver.commands.call_fd, True)
    os.eventfd_write(driver.commands.call_fd, 2**64 - 2)
    driver.submit(SET_MAC)
    await trio.testing.wait_all_tasks_blocked()
    assert driver.commands.poll() == (0, 1)


async def test_a_flood_of_commands_is_served_in_bounded_turns(log):
    device = SimulatedDevice(SimulatorSpec(), log)
    driver = DeviceDriver(device, num=256)
    await driver.start()
    for _ in range(256):
        driver.commands.add([Buffer(driver.control.iova, 2)])
    driver.commands.kick()
    served = []
    while device.net.turn(0.0):
        served.append(device.statistics.cvq_requests)
    assert served == [BUDGET, 2 * BUDGET, 3 * BUDGET, 4 * BUDGET]
    await driver.stop()
    await device.aclose()
