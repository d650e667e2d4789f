"""RSS, hash reports, checksums and merged buffers as a driver meets them."""

from __future__ import annotations

from collections import Counter

import pytest

from cvqd.simulator.packet import parse
from cvqd.simulator.steering import Hasher
from cvqd.testing.device_driver import USUAL_FEATURES
from cvqd.testing.driver_ring import Buffer
from cvqd.wire.net_control import ERR, OK, GuestOffloadsSet, HashConfig, HashType, RssConfig, VqPairsSet
from cvqd.wire.virtio import Feature
from kit.ip_frames import ip_frame

KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
TCPV4 = HashType.TCPV4.mask
EVERYTHING = 2**64 - 1
FLOWS = [ip_frame("10.0.0.1", "10.0.0.2", (port, 80)) for port in range(1000, 1064)]


def arrived(driver) -> list[list[bytes]]:
    return [driver.received(pair) for pair in range(len(driver.receive))]


async def send(driver, frames) -> None:
    for frame in frames:
        await driver.send(frame)


async def test_each_flow_goes_where_the_table_says(drive):
    driver = await drive(max_queue_pairs=4)
    table = (3, 1, 2, 0, 1, 1, 3, 2)
    assert await driver.command(RssConfig(TCPV4, 7, 0, table, 4, KEY).encode()) == OK
    for pair in range(4):
        driver.fill(pair, buffers=64)
    await send(driver, FLOWS)
    expected = Counter(table[Hasher(TCPV4, KEY).hash(parse(frame)).value & 7] for frame in FLOWS)
    found = arrived(driver)
    assert [len(frames) for frames in found] == [expected[pair] for pair in range(4)]
    assert sorted(frame for frames in found for frame in frames) == sorted(FLOWS)
    counters = driver.device.statistics.queues
    assert [counters[2 * pair]["rx_packets"] for pair in range(4)] == [expected[pair] for pair in range(4)]


async def test_what_has_no_hash_goes_to_the_unclassified_queue(drive):
    driver = await drive(max_queue_pairs=4)
    assert await driver.command(RssConfig(TCPV4, 0, 2, (0,), 4, KEY).encode()) == OK
    for pair in range(4):
        driver.fill(pair)
    udp = ip_frame("10.0.0.1", "10.0.0.2", (1, 2), udp=True)
    await send(driver, [udp, FLOWS[0]])
    assert arrived(driver) == [[FLOWS[0]], [], [udp], []]


async def test_a_disabled_queue_of_the_table_loses_its_packets(drive):
    driver = await drive(max_queue_pairs=2)
    assert await driver.command(RssConfig(TCPV4, 0, 0, (1,), 2, KEY).encode()) == OK
    driver.fill(0)
    driver.fill(1)
    await driver.device.set_vring_enable(2, enable=False)
    await driver.send(FLOWS[0])
    assert arrived(driver) == [[], []]
    assert driver.device.statistics.drops == {"rx.disabled": 1}


async def test_the_last_steering_command_decides(drive):
    driver = await drive(max_queue_pairs=2)
    driver.fill(0)
    driver.fill(1)
    rss = RssConfig(TCPV4, 0, 0, (1,), 2, KEY)
    for command, pair in [(rss, 1), (VqPairsSet(2), 0), (rss, 1), (HashConfig(TCPV4, KEY), 0)]:
        sent = driver.features & command.feature.mask
        assert await driver.command(command.encode()) == (OK if sent else ERR)
        if sent:
            await driver.send(FLOWS[0])
            assert driver.received(pair) == [FLOWS[0]]


async def test_max_tx_vq_informs_and_vq_pairs_set_forbids(drive):
    driver = await drive(max_queue_pairs=4)
    assert await driver.command(RssConfig(TCPV4, 0, 0, (0,), 2, KEY).encode()) == OK
    await driver.send(FLOWS[0], 2)
    assert driver.device.statistics.tx_packets == 1
    assert await driver.command(VqPairsSet(2).encode()) == OK
    await driver.send(FLOWS[0], 2)
    assert driver.device.statistics.tx_packets == 1
    assert driver.device.statistics.drops["tx.inactive"] == 1


async def headers(driver, frame) -> bytes:
    [iova] = driver.fill(buffers=1)
    await driver.send(frame)
    assert driver.receive[0].poll() is not None
    return bytes(driver.data.view(iova, 20))


@pytest.mark.parametrize("configure", [HashConfig(0x3F, KEY), RssConfig(0x3F, 0, 0, (0,), 1, KEY)])
async def test_a_hash_report_is_in_the_header_of_each_packet(drive, configure):
    driver = await drive(EVERYTHING, max_queue_pairs=2)
    assert (await headers(driver, FLOWS[0]))[12:] == bytes(8), "all types are off after a reset"
    assert await driver.command(configure.encode()) == OK
    # the first of Microsoft's vectors
    frame = ip_frame("66.9.149.187", "161.142.100.80", (2794, 1766))
    assert (await headers(driver, frame))[12:] == bytes.fromhex("78c1cc5102000000")
    frame = ip_frame("66.9.149.187", "161.142.100.80")
    assert (await headers(driver, frame))[12:] == bytes.fromhex("c28f3e3201000000")
    assert (await headers(driver, b"\xff" * 12 + b"\x88\xb5" + bytes(46)))[12:] == bytes(8)
    assert await driver.command(VqPairsSet(1).encode()) == OK
    ends = isinstance(configure, RssConfig)
    assert ((await headers(driver, frame))[16] == 0) == ends


async def test_the_header_has_12_bytes_without_hash_reports(drive):
    driver = await drive()
    assert (await headers(driver, FLOWS[0]))[10:14] == b"\x01\0" + FLOWS[0][:2]


async def test_a_right_checksum_is_said_to_be_while_the_offload_is_on(drive):
    driver = await drive()
    right, wrong = FLOWS[0], ip_frame("10.0.0.1", "10.0.0.2", (1, 2), broken=True)
    none = ip_frame("10.0.0.1", "10.0.0.2")
    assert [(await headers(driver, frame))[0] for frame in (right, wrong, none)] == [2, 0, 0]
    counters = driver.device.statistics.queues[0]
    names = ("rx_csum_valid", "rx_csum_bad", "rx_csum_none", "rx_needs_csum")
    assert [counters[name] for name in names] == [1, 1, 1, 0]
    assert await driver.command(GuestOffloadsSet(0).encode()) == OK
    assert (await headers(driver, right))[0] == 0
    assert counters["rx_csum_valid"] == 1
    assert await driver.command(GuestOffloadsSet(Feature.GUEST_CSUM.mask).encode()) == OK
    assert (await headers(driver, right))[0] == 2
    assert await driver.command(GuestOffloadsSet(Feature.GUEST_UFO.mask).encode()) == ERR


async def test_a_driver_without_the_feature_is_told_nothing_of_checksums(drive):
    driver = await drive(
        USUAL_FEATURES & ~(Feature.GUEST_CSUM.mask | Feature.GUEST_TSO4.mask | Feature.GUEST_TSO6.mask)
    )
    assert (await headers(driver, FLOWS[0]))[0] == 0


async def test_a_packet_is_spread_over_buffers_where_the_driver_merges_them(drive):
    driver = await drive(mtu=9000)
    frame = ip_frame("10.0.0.1", "10.0.0.2", (1, 2), payload=bytes(range(256)) * 10)
    size = 1000
    posted = driver.fill(buffers=3, size=size)
    await driver.send(frame)
    written = [driver.receive[0].poll() for _ in range(3)]
    assert [length for _, length in written] == [1000, 1000, 12 + len(frame) - 2000]
    whole = b"".join(bytes(driver.data.view(at, size)) for at in posted)
    assert whole[10:12] == b"\x03\0"
    assert whole[12 : 12 + len(frame)] == frame


async def test_buffers_that_are_too_few_for_a_packet_come_back_unused(drive):
    driver = await drive(mtu=9000)
    driver.fill(buffers=2, size=100)
    await driver.send(ip_frame("10.0.0.1", "10.0.0.2", (1, 2), payload=bytes(500)))
    assert [length for _, length in (driver.receive[0].poll(), driver.receive[0].poll())] == [0, 0]
    assert driver.device.statistics.rx_overruns == 1
    assert driver.device.statistics.queues[0]["rx_drop_overruns"] == 1


async def test_a_chain_that_cannot_hold_a_header_is_given_back(drive):
    driver = await drive()
    driver.receive[0].add([Buffer(driver.data.allocate(8), 8, writable=True)])
    driver.receive[0].kick()
    await driver.send(FLOWS[0])
    assert driver.receive[0].poll() == (0, 0)
    assert driver.device.statistics.drops == {"rx.too_small": 1}


async def test_frames_beyond_the_mtu_are_dropped_both_ways_and_a_tag_is_not_counted(drive):
    driver = await drive(mtu=1000)
    driver.fill(buffers=8)
    fits, tagged = bytes(12) + b"\x88\xb5", bytes(12) + b"\x81\0\0\5\x88\xb5"
    await send(driver, [fits.ljust(1014, b"."), tagged.ljust(1018, b".")])
    assert len(driver.received()) == 2
    await send(driver, [fits.ljust(1015, b"."), tagged.ljust(1019, b".")])
    assert driver.received() == []
    for frame in (fits.ljust(1015, b"."), tagged.ljust(1019, b".")):
        driver.device.net._data.receive(frame, 0)
    assert driver.received() == []
    assert driver.device.statistics.drops == {"tx.mtu": 2, "rx.mtu": 2}


async def test_no_frame_passes_while_the_link_is_down(drive):
    driver = await drive()
    driver.fill(buffers=2)
    driver.device.set_link(up=False)
    await driver.send(FLOWS[0])
    driver.device.net._data.receive(FLOWS[0], 0)
    assert driver.received() == []
    assert driver.device.statistics.drops == {"tx.link_down": 1, "rx.link_down": 1}
    driver.device.set_link(up=True)
    await driver.send(FLOWS[0])
    assert driver.received() == [FLOWS[0]]
