"""What a driver is told when it asks: statistics and coalescing parameters."""

from __future__ import annotations

import pytest

from cvqd.testing.device_driver import USUAL_FEATURES
from cvqd.wire.control_stats import COUNTERS, parse_blocks
from cvqd.wire.net_control import (
    ERR,
    OK,
    Coalescing,
    CoalRxSet,
    CoalTxSet,
    CoalVqGet,
    CoalVqSet,
    MacAddrSet,
    StatsGet,
    StatsQuery,
    StatsRequest,
    StatsType,
)
from cvqd.wire.virtio import Feature, mask_of
from kit.ip_frames import ip_frame

FRAME = ip_frame("10.0.0.1", "10.0.0.2", (1, 2))
REFUSED = bytes((ERR,))
CSUM_AND_GSO = mask_of(Feature.GUEST_CSUM, Feature.GUEST_TSO4, Feature.GUEST_TSO6)


def request(*wanted: tuple[int, int]) -> bytes:
    return StatsGet(tuple(StatsRequest(queue, types) for queue, types in wanted)).encode()


def named(answer: bytes) -> dict[tuple[int, str], int]:
    assert answer[0] == OK
    blocks = parse_blocks(answer[1:])
    assert len(answer) == 1 + sum(len(block.encode()) for block in blocks)
    return {
        (block.queue, name): value
        for block in blocks
        for name, value in zip(COUNTERS[block.kind], block.counters, strict=True)
    }


async def test_the_types_are_those_that_the_negotiated_features_allow(drive):
    driver = await drive()
    answer = await driver.ask(StatsQuery().encode())
    own = [
        kind
        for kind in StatsType
        if kind not in (StatsType.TX_CSUM, StatsType.TX_GSO)  # it offers neither CSUM nor HOST_TSO
    ]
    assert answer == b"\0" + sum(kind.mask for kind in own).to_bytes(8, "little")
    less = await drive(USUAL_FEATURES & ~CSUM_AND_GSO)
    answer = int.from_bytes((await less.ask(StatsQuery().encode()))[1:], "little")
    assert not answer & mask_of(StatsType.RX_CSUM, StatsType.RX_GSO)


async def test_packets_bytes_notifications_and_calls_are_counted_for_each_queue(drive):
    driver = await drive(max_queue_pairs=2)
    driver.fill(buffers=2)
    for _ in range(3):
        await driver.send(FRAME)
    basic = [(0, StatsType.RX_BASIC.mask), (1, StatsType.TX_BASIC.mask), (2, StatsType.RX_BASIC.mask)]
    found = named(await driver.ask(request(*basic)))
    assert {name: value for (queue, name), value in found.items() if queue == 0} == {
        "rx_notifications": 1,
        "rx_packets": 2,
        "rx_bytes": 2 * len(FRAME),
        "rx_interrupts": 2,
        "rx_drops": 1,
        "rx_drop_overruns": 1,
    }
    assert {name: value for (queue, name), value in found.items() if queue == 1} == {
        "tx_notifications": 3,
        "tx_packets": 3,
        "tx_bytes": 3 * len(FRAME),
        "tx_interrupts": 3,
        "tx_drops": 0,
        "tx_drop_malformed": 0,
    }
    assert not any(value for (queue, _), value in found.items() if queue == 2)


async def test_the_control_queue_counts_the_command_that_asks(drive):
    driver = await drive()
    assert await driver.command(MacAddrSet(b"\x02" * 6).encode()) == OK
    assert await driver.command(b"\x63\x63") == ERR
    found = named(await driver.ask(request((2, StatsType.CVQ.mask))))
    assert found == {(2, "command_num"): 3, (2, "ok_num"): 2}


@pytest.mark.parametrize(
    "wanted",
    [
        [(3, 0)],
        [(0, StatsType.TX_BASIC.mask)],
        [(1, StatsType.RX_BASIC.mask)],
        [(2, StatsType.RX_BASIC.mask)],
        [(0, StatsType.CVQ.mask)],
        [(0, 1 << 5)],
        [(0, StatsType.RX_BASIC.mask), (3, 0)],
        [(1, StatsType.TX_CSUM.mask)],
    ],
)
async def test_one_mistake_fails_the_whole_command(drive, wanted):
    # virtio 1.3 §5.1.6.5.10.12
    driver = await drive()
    assert await driver.ask(request(*wanted)) == REFUSED


async def test_statistics_of_a_feature_that_was_not_negotiated_are_refused(drive):
    driver = await drive(USUAL_FEATURES & ~CSUM_AND_GSO)
    for kind in (StatsType.RX_CSUM, StatsType.RX_GSO):
        assert await driver.ask(request((0, kind.mask))) == REFUSED


async def test_a_short_buffer_is_filled_and_no_more(drive):
    driver = await drive()
    answer = await driver.ask(request((0, StatsType.RX_BASIC.mask)), room=20)
    assert len(answer) == 20
    assert parse_blocks(answer[1:]) == []


async def test_the_last_setter_of_a_queues_coalescing_is_what_it_says(drive):
    # the example of virtio 1.3 §5.1.6.5.9
    driver = await drive(max_queue_pairs=2)
    first, second, third, fourth = (Coalescing(number, 10 * number) for number in range(1, 5))

    async def says(queue: int) -> Coalescing:
        answer = await driver.ask(CoalVqGet(queue).encode())
        assert answer[0] == OK
        return Coalescing.parse(answer, 1)

    assert await says(0) == Coalescing(0, 0)
    for command in (CoalRxSet(first), CoalVqSet(0, second), CoalVqSet(1, third)):
        assert await driver.command(command.encode()) == OK
    assert [await says(queue) for queue in range(4)] == [second, third, first, Coalescing()]
    assert await driver.command(CoalTxSet(fourth).encode()) == OK
    assert [await says(queue) for queue in range(4)] == [second, fourth, first, fourth]
    # §5.1.6.5.9.2: disabled and enabled again, a queue has the values of all
    await driver.device.set_vring_enable(0, enable=False)
    assert await driver.ask(CoalVqGet(0).encode()) == REFUSED
    assert await driver.command(CoalVqSet(0, first).encode()) == ERR
    await driver.device.set_vring_enable(0, enable=True)
    assert await says(0) == first


@pytest.mark.parametrize("queue", [4, 5, 65535])
async def test_only_data_queues_have_coalescing(drive, queue):
    driver = await drive(max_queue_pairs=2)
    assert await driver.ask(CoalVqGet(queue).encode()) == REFUSED
    assert await driver.command(CoalVqSet(queue, Coalescing(1, 1)).encode()) == ERR
