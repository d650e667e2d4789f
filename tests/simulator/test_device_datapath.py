"""Frames through the loopback: every command shows in the traffic, no address leads out of the guest."""

from __future__ import annotations

import pytest
import trio.testing

from cvqd.errors import DeviceError
from cvqd.simulator.datapath import BUDGET, MAX_FRAME
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import SUPPORTED_FEATURES, Groups, SimulatorSpec
from cvqd.testing.device_driver import NET_HEADER, USUAL_FEATURES, DeviceDriver
from cvqd.testing.driver_ring import Buffer
from cvqd.wire.net_control import (
    OK,
    MacAddrSet,
    MacTableSet,
    RxMode,
    RxModeSet,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.vhost_vdpa import Access
from cvqd.wire.virtio import Feature, mask_of

OWN = bytes.fromhex("525400127601")
NEW = bytes.fromhex("525411223344")
STRANGER = bytes.fromhex("5254cafecafe")
GROUP = bytes.fromhex("01005e000001")
BROADCAST = b"\xff" * 6
CANARY = b"\xc5" * 64
MULTIQUEUE = mask_of(Feature.MQ, Feature.RSS)


def frame(destination: bytes, vid: int | None = None, length: int = 60) -> bytes:
    tag = b"" if vid is None else b"\x81\x00" + vid.to_bytes(2, "big")
    return (destination + STRANGER + tag + b"\x88\xb5").ljust(length, b".")


async def comes_back(driver, sent: bytes, pair: int = 0) -> bool:
    await driver.send(sent, pair)
    received = driver.received(pair)
    assert received in ([], [sent])
    return bool(received)


@pytest.fixture
async def strict(drive):
    """A driver whose device is not promiscuous."""
    driver = await drive()
    assert await driver.command(RxModeSet(RxMode.PROMISC, 0).encode()) == OK
    driver.fill(buffers=32)
    return driver


async def obey(driver, *commands) -> None:
    for command in commands:
        assert await driver.command(command.encode()) == OK


async def test_the_address_decides(strict):
    assert await comes_back(strict, frame(OWN))
    assert not await comes_back(strict, frame(NEW))
    await obey(strict, MacAddrSet(NEW))
    assert await comes_back(strict, frame(NEW))
    assert not await comes_back(strict, frame(OWN))
    assert strict.device.statistics.drops == {"rx.unicast": 2}


async def test_promiscuous_decides(strict):
    assert not await comes_back(strict, frame(STRANGER))
    await obey(strict, RxModeSet(RxMode.PROMISC, 1))
    assert await comes_back(strict, frame(STRANGER))


@pytest.mark.parametrize(
    ("mode", "destination"),
    [(RxMode.ALLMULTI, GROUP), (RxMode.ALLUNI, STRANGER)],
    ids=["allmulti", "alluni"],
)
async def test_all_modes_decide(strict, mode, destination):
    assert not await comes_back(strict, frame(destination))
    await obey(strict, RxModeSet(mode, 1))
    assert await comes_back(strict, frame(destination))
    await obey(strict, RxModeSet(mode, 0))
    assert not await comes_back(strict, frame(destination))


@pytest.mark.parametrize(
    ("mode", "destination"),
    [(RxMode.NOMULTI, GROUP), (RxMode.NOUNI, OWN), (RxMode.NOBCAST, BROADCAST)],
    ids=["nomulti", "nouni", "nobcast"],
)
async def test_no_modes_decide(strict, mode, destination):
    await obey(strict, MacTableSet((), (GROUP,)))
    assert await comes_back(strict, frame(destination))
    await obey(strict, RxModeSet(mode, 1))
    assert not await comes_back(strict, frame(destination))


async def test_the_tables_decide(strict):
    assert not await comes_back(strict, frame(STRANGER))
    assert not await comes_back(strict, frame(GROUP))
    await obey(strict, MacTableSet((STRANGER,), (GROUP,)))
    assert await comes_back(strict, frame(STRANGER))
    assert await comes_back(strict, frame(GROUP))
    await obey(strict, MacTableSet((), ()))
    assert not await comes_back(strict, frame(STRANGER))


async def test_the_vlan_table_decides(strict):
    assert await comes_back(strict, frame(OWN))
    assert not await comes_back(strict, frame(OWN, vid=7))
    await obey(strict, VlanAdd(7))
    assert await comes_back(strict, frame(OWN, vid=7))
    assert not await comes_back(strict, frame(OWN, vid=8))
    await obey(strict, VlanDel(7))
    assert not await comes_back(strict, frame(OWN, vid=7))


async def test_the_pairs_decide(drive):
    driver = await drive(max_queue_pairs=8)
    for pair in range(8):
        driver.fill(pair)
    assert not await comes_back(driver, frame(BROADCAST), pair=1)
    assert driver.device.statistics.drops == {"tx.inactive": 1}
    await obey(driver, VqPairsSet(8))
    for pair in range(8):
        assert await comes_back(driver, frame(BROADCAST), pair)
    await obey(driver, VqPairsSet(1))
    assert not await comes_back(driver, frame(BROADCAST), pair=7)
    assert await comes_back(driver, frame(BROADCAST), pair=0)


async def test_a_ring_may_be_as_large_as_the_device_says(simulate):
    device = await simulate(queue_size=1024)
    assert await device.get_vring_num() == 1024
    driver = DeviceDriver(device, num=1024)
    await driver.start()
    driver.fill(0)
    for _ in range(3):
        assert await comes_back(driver, frame(BROADCAST))
    await driver.stop()
    with pytest.raises(DeviceError, match="a power of two up to 1024"):
        await device.set_vring_num(0, 2048)


async def test_a_received_packet_has_a_header_that_says_one_buffer(strict):
    ring = strict.receive[0]
    first = ring.ring.descriptor(0).address
    await strict.send(frame(OWN))
    assert bytes(strict.data.view(first, 12)) == bytes(10) + b"\x01\x00"
    assert ring.poll() == (0, 12 + 60)


async def test_the_loopback_does_not_return_the_sender_s_header(strict):
    packet = b"\xff" * 12 + frame(OWN)
    first = strict.receive[0].ring.descriptor(0).address
    strict.transmit[0].add([Buffer(strict.data.put(packet), len(packet))])
    strict.transmit[0].kick()
    await strict.transmit[0].wait()
    assert bytes(strict.data.view(first, 12)) == bytes(10) + b"\x01\x00"


async def test_a_packet_may_lie_in_many_pieces_on_both_sides(drive):
    driver = await drive()
    sent = frame(BROADCAST, length=1000)
    pieces = [Buffer(driver.data.put(NET_HEADER[:7]), 7), Buffer(driver.data.put(NET_HEADER[7:]), 5)]
    pieces += [Buffer(driver.data.put(sent[at : at + 100]), 100) for at in range(0, 1000, 100)]
    into = driver.data.allocate(1012)
    driver.receive[0].add([Buffer(into + at, 253, writable=True) for at in range(0, 1012, 253)])
    driver.transmit[0].add(pieces)
    driver.transmit[0].kick()
    await driver.transmit[0].wait()
    assert driver.receive[0].poll() == (0, 1012)
    assert bytes(driver.data.view(into + 12, 1000)) == sent


@pytest.mark.parametrize(
    ("size", "reason"),
    [(0, "tx.runt"), (13, "tx.runt"), (MAX_FRAME + 1, "tx.oversize")],
)
async def test_what_is_no_frame_is_dropped_and_given_back(strict, size, reason):
    assert not await comes_back(strict, b"\xff" * size)
    assert strict.device.statistics.drops == {reason: 1}
    assert await comes_back(strict, frame(OWN))


async def test_without_a_receive_buffer_a_frame_is_lost_and_counted(drive):
    driver = await drive()
    assert not await comes_back(driver, frame(BROADCAST))
    assert driver.device.statistics.rx_overruns == 1
    driver.fill()
    await trio.testing.wait_all_tasks_blocked()
    assert driver.received() == []
    assert await comes_back(driver, frame(BROADCAST))


async def test_a_receive_buffer_that_is_too_small_is_given_back_empty(drive):
    driver = await drive(USUAL_FEATURES & ~Feature.MRG_RXBUF.mask)
    driver.fill(buffers=1, size=71)
    await driver.send(frame(BROADCAST))
    assert driver.receive[0].poll() == (0, 0)
    assert driver.device.statistics.drops == {"rx.too_small": 1}
    driver.fill(buffers=1, size=72)
    assert await comes_back(driver, frame(BROADCAST))


async def test_a_disabled_receive_ring_loses_frames(drive):
    driver = await drive()
    driver.fill()
    await driver.device.set_vring_enable(0, enable=False)
    assert not await comes_back(driver, frame(BROADCAST))
    assert driver.device.statistics.drops == {"rx.disabled": 1}
    await driver.device.set_vring_enable(0, enable=True)
    assert await comes_back(driver, frame(BROADCAST))


async def test_traffic_is_counted_in_frame_bytes(strict):
    await comes_back(strict, frame(OWN, length=100))
    await comes_back(strict, frame(STRANGER, length=200))
    counted = strict.device.statistics.as_dict()
    assert (counted["tx_packets"], counted["tx_bytes"]) == (2, 300)
    assert (counted["rx_packets"], counted["rx_bytes"]) == (1, 100)
    assert counted["drops"] == {"rx.unicast": 1}


async def test_counters_survive_a_reset(strict):
    await comes_back(strict, frame(OWN))
    await strict.device.set_status(0)
    assert strict.device.statistics.rx_packets == 1


async def test_a_flood_of_packets_is_served_in_bounded_turns_and_after_commands(log):
    device = SimulatedDevice(SimulatorSpec(), log)
    driver = DeviceDriver(device)
    await driver.start()
    packet = driver.data.put(NET_HEADER + frame(BROADCAST))
    for _ in range(64):
        driver.transmit[0].add([Buffer(packet, 72)])
    driver.transmit[0].kick()
    assert device.net.turn(0.0)
    assert device.statistics.tx_packets == BUDGET
    driver.submit(MacAddrSet(NEW).encode())
    assert device.net.turn(0.0)
    assert (device.statistics.tx_packets, device.statistics.cvq_successes) == (2 * BUDGET, 1)
    await driver.stop()
    await device.aclose()


@pytest.mark.parametrize("rings", [0, Feature.RING_PACKED.mask], ids=["split", "packed"])
async def test_packets_of_very_many_pieces_are_served_in_bounded_turns_too(log, rings):
    device = SimulatedDevice(SimulatorSpec(queue_size=2048, features=SUPPORTED_FEATURES & ~MULTIQUEUE), log)
    driver = DeviceDriver(device, num=2048, rings=rings)
    await driver.start()
    piece = Buffer(driver.data.put(bytes(2)), 2)
    for _ in range(4):
        driver.transmit[0].add([piece] * 500)
    driver.transmit[0].kick()
    assert device.net.turn(0.0)
    assert 0 < device.statistics.tx_packets < 4
    while device.net.turn(0.0):
        pass
    assert device.statistics.tx_packets == 4
    await driver.stop()
    await device.aclose()


# what descriptors can reach


async def attack(driver, target: int) -> tuple[bool, bool]:
    """Whether the data queues could read and could write the 64 bytes at ``target``."""
    driver.fill(buffers=1)
    driver.transmit[0].add([Buffer(driver.data.put(NET_HEADER + frame(BROADCAST)), 72), Buffer(target, 64)])
    driver.transmit[0].kick()
    await driver.transmit[0].wait()
    read = any(CANARY in received for received in driver.received())
    if not read:
        # its buffer is still posted and would be filled first
        assert await comes_back(driver, frame(BROADCAST))
    into = driver.data.allocate(12)
    driver.receive[0].add([Buffer(into, 12, writable=True), Buffer(target, 64, writable=True)])
    await driver.send(frame(BROADCAST))
    driver.received()
    return read, bytes(driver.control.view(target, 64)) != CANARY


async def test_data_queues_cannot_reach_the_control_queue_s_address_space(drive, log):
    driver = await drive()
    assert await attack(driver, driver.control.put(CANARY)) == (False, False)
    assert driver.device.statistics.iotlb_faults == {1: 1, 0: 1}
    assert driver.device.statistics.drops == {"tx.chain": 1, "rx.chain": 1}
    refusals = log.of("simulator.access.refused")
    assert [(fields["queue"], fields["reason"]) for fields in refusals] == [
        (1, "memory.unmapped"),
        (0, "memory.unmapped"),
    ]
    # and everything goes on
    assert await driver.command(MacAddrSet(NEW).encode()) == OK
    driver.fill()
    assert await comes_back(driver, frame(BROADCAST))


async def test_in_a_shared_address_space_they_can(simulate):
    device = await simulate(groups=Groups.SINGLE)
    async with DeviceDriver(device, isolated=False) as driver:
        await driver.start()
        assert await attack(driver, driver.control.put(CANARY)) == (True, True)


async def test_a_read_only_mapping_is_not_written(drive):
    driver = await drive()
    read_only = driver.control.put(CANARY)
    await driver.device.iotlb(0, [driver.control.mapping(Access.READ)._replace(iova=1 << 40)])
    target = (1 << 40) + read_only - driver.control.iova
    driver.receive[0].add([Buffer(target, 64, writable=True)])
    await driver.send(frame(BROADCAST, length=40))
    assert driver.receive[0].poll() == (0, 0)
    assert bytes(driver.control.view(read_only, 64)) == CANARY
    assert driver.device.statistics.iotlb_faults == {0: 1}


async def test_rings_themselves_are_only_reached_through_the_group_s_address_space(simulate):
    device = await simulate(groups=Groups.PER_QUEUE, address_spaces=3)
    async with DeviceDriver(device) as driver:
        await driver.negotiate(2**64 - 1)
        await driver.map()
        driver.build_rings()
        await driver.bind()
        # nothing is mapped in address space 2
        await device.set_group_asid(1, 2)
        await driver.enable()
        driver.transmit[0].add([Buffer(driver.data.put(NET_HEADER + frame(BROADCAST)), 72)])
        driver.transmit[0].kick()
        await trio.testing.wait_all_tasks_blocked()
        assert driver.transmit[0].poll() is None
        assert device.statistics.iotlb_faults == {1: 1}
        assert await driver.command(MacAddrSet(NEW).encode()) == OK
