"""Each control command from a guest through the daemon into the simulated device, and back after a reset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cvqd.simulator.spec import SimulatorSpec
from cvqd.wire.control_stats import parse_blocks
from cvqd.wire.net_control import (
    COMMANDS,
    ERR,
    OK,
    AnnounceAck,
    Coalescing,
    CoalRxSet,
    CoalTxSet,
    CoalVqGet,
    CoalVqSet,
    GuestOffloadsSet,
    HashConfig,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxMode,
    RxModeSet,
    StatsGet,
    StatsQuery,
    StatsRequest,
    StatsType,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.vhost_user_payloads import RegionDescription
from cvqd.wire.virtio import Feature
from kit.ip_frames import ip_frame
from kit.rig import MAC_A, MAC_B, Guest, Rig, frame, settled

if TYPE_CHECKING:
    from pathlib import Path

    from cvqd.core.tracked import TrackedState
    from cvqd.simulator.control_state import ControlState

KEY = bytes(range(40))
GROUP = bytes.fromhex("01005e000001")
OFFLOADS = Feature.GUEST_CSUM.mask | Feature.GUEST_TSO4.mask
#: one of each command that the device acknowledges at its place in the row
STORY = [
    MacAddrSet(MAC_A),
    MacTableSet((MAC_B,), (GROUP,)),
    *(RxModeSet(mode, int(mode is not RxMode.PROMISC)) for mode in RxMode),
    VlanAdd(5),
    VlanAdd(6),
    VlanDel(6),
    VqPairsSet(2),
    HashConfig(0x1FF, KEY),
    RssConfig(0x3F, 1, 1, (1, 0), 2, KEY),
    GuestOffloadsSet(OFFLOADS),
    CoalTxSet(Coalescing(2, 20)),
    CoalRxSet(Coalescing(3, 30)),
    CoalVqSet(1, Coalescing(4, 40)),
    CoalVqGet(1),
    StatsQuery(),
    StatsGet((StatsRequest(0, StatsType.RX_BASIC.mask),)),
]


def agree(tracked: TrackedState, device: ControlState) -> None:
    assert tracked.mac == device.mac
    assert {mode for mode in RxMode if tracked.rx >> mode & 1} == device.modes
    assert (frozenset(tracked.unicast), frozenset(tracked.multicast)) == (device.unicast, device.multicast)
    assert set(tracked.vlan_ids()) == (device.vlans or set())
    assert tracked.pairs == device.pairs
    assert tracked.hashing == (device.rss or device.report)
    assert tracked.offloads == device.offloads
    assert [tracked.coalescing.of(queue) for queue in range(4)] == [*map(device.coalescing, range(4))]


@pytest.fixture
def spec() -> SimulatorSpec:
    return SimulatorSpec(max_queue_pairs=2)


def test_the_story_has_every_command():
    assert {command.name for command in [*STORY, AnnounceAck()]} == {command.name for command in COMMANDS}


async def restart(guest: Guest) -> None:
    """The device is stopped, reset and started again under a guest that goes on: its memory is cut in two."""
    begin, size, user, _ = guest.memory.description
    half, file = size // 2, guest.memory.fileno()
    pieces = [RegionDescription(begin + at, half, user + at, at) for at in (0, half)]
    reset = guest.rig.device.net.control.state
    await guest.front_end.set_mem_table([(piece, file) for piece in pieces])
    assert await guest.front_end.get_features()
    assert guest.rig.owner.running
    assert guest.rig.device.net.control.state is not reset
    assert len(guest.rig.log.of("state.replayed")) >= 1


def everything(rig: Rig) -> int:
    return rig.owner.current.offer.features & ~Feature.PROTOCOL_FEATURES.mask


async def test_every_command_reaches_the_device_and_the_state_and_survives_a_new_start(tmp_path: Path, spec):
    async with Rig.opened(tmp_path, spec) as rig, rig.guest("uml", features=everything(rig)) as guest:
        await guest.start()
        for command in STORY:
            assert await guest.driver.ask(command.encode()) >= bytes((OK,)), command
            agree(rig.owner.state, rig.device.net.control.state)
        rig.device.announce()
        assert await guest.command(AnnounceAck().encode()) == OK
        assert await guest.command(AnnounceAck().encode()) == ERR
        before = rig.owner.state
        await restart(guest)
        assert rig.owner.state == before
        agree(before, rig.device.net.control.state)


async def test_results_are_the_devices(tmp_path: Path, spec):
    async with Rig.opened(tmp_path, spec) as rig, rig.guest("uml", features=everything(rig)) as guest:
        await guest.start()
        values = Coalescing(7, 70)
        assert await guest.command(CoalVqSet(2, values).encode()) == OK
        assert await guest.driver.ask(CoalVqGet(2).encode()) == b"\0" + values.encode()
        assert await guest.driver.ask(CoalVqGet(4).encode()) == b"\1"
        query = await guest.driver.ask(StatsQuery().encode())
        types = int.from_bytes(query[1:], "little")
        assert types & StatsType.CVQ.mask
        wanted = StatsGet(
            (
                *(StatsRequest(queue, types & (0xF0000 if queue & 1 else 0xF)) for queue in range(4)),
                StatsRequest(4, StatsType.CVQ.mask),
            )
        )
        answer = await guest.driver.ask(wanted.encode(), 4096)
        assert len(answer) == wanted.answer_length
        assert len(parse_blocks(answer[1:])) == 2 * 4 + 2 * 2 + 1
        assert parse_blocks(answer[1:])[-1].counters == (4, 4), "the refused one never came to the device"
        short = await guest.driver.ask(wanted.encode(), 40)
        assert len(short) == 40


async def test_a_guest_without_multiqueue_knows_the_control_queue_by_its_own_index(tmp_path: Path, spec):
    async with Rig.opened(tmp_path, spec) as rig:
        features = everything(rig) & ~(Feature.MQ.mask | Feature.RSS.mask)
        async with rig.guest("uml", features=features) as guest:
            await guest.start()
            assert (guest.control.index, rig.owner.current.offer.device_cvq_index) == (2, 4)
            answer = await guest.driver.ask(StatsGet((StatsRequest(2, StatsType.CVQ.mask),)).encode())
            [block] = parse_blocks(answer[1:])
            assert (block.queue, block.counters) == (2, (1, 1))
            assert await guest.driver.ask(CoalVqGet(2).encode()) == b"\1"


async def test_a_guest_with_rss_and_hash_reports_has_its_frames_where_its_table_says(tmp_path: Path, spec):
    async with Rig.opened(tmp_path, spec) as rig, rig.guest("uml", features=everything(rig)) as guest:
        await guest.start()
        for pair in range(2):
            guest.driver.fill(pair)
        assert await guest.command(RssConfig(0x3F, 0, 0, (1,), 2, KEY).encode()) == OK
        sent = ip_frame("10.0.0.1", "10.0.0.2", (1, 2))
        guest.driver.send_frame(sent)
        await settled()
        [packet] = guest.driver.received_packets(1)
        assert packet[20:] == sent
        assert packet[16] == 2, "the report says TCPv4"
        other = frame(MAC_A)
        guest.driver.send_frame(other)
        await settled()
        assert guest.driver.received_frames(0) == [other], "no hash, so the unclassified queue"


async def test_a_guest_with_rss_and_without_mq_has_all_pairs(tmp_path: Path, spec):
    async with Rig.opened(tmp_path, spec) as rig:
        features = everything(rig) & ~Feature.MQ.mask
        async with rig.guest("uml", features=features) as guest:
            await guest.start()
            assert guest.control.index == 4
            assert await guest.command(RssConfig(0, 0, 1, (1,), 2, b"").encode()) == OK
            assert await guest.command(VqPairsSet(1).encode()) == ERR
            await restart(guest)
            agree(rig.owner.state, rig.device.net.control.state)


async def test_tables_larger_than_the_device_takes_let_everything_in_and_stay_in_the_state(tmp_path: Path):
    spec = SimulatorSpec(mac_table_entries=8)
    async with Rig.opened(tmp_path, spec) as rig, rig.guest("uml") as guest:
        await guest.start()
        guest.driver.fill()
        assert await guest.command(RxModeSet(RxMode.PROMISC, 0).encode()) == OK
        assert not await guest.echo(frame(MAC_B))
        table = MacTableSet(tuple(bytes((2, 0, 0, 0, 0, entry)) for entry in range(100)), ())
        assert await guest.command(table.encode()) == OK
        assert rig.owner.state.unicast == table.unicast
        assert rig.owner.state.widened
        [warning] = rig.log.of("cvq.table.widened")
        assert (warning["unicast"], warning["multicast"]) == (100, 0)
        assert await guest.echo(frame(table.unicast[99]))
        assert await guest.command(RxModeSet(RxMode.PROMISC, 0).encode()) == OK
        assert await guest.echo(frame(table.unicast[99])), "still every frame it asked for"

        await restart(guest)
        assert rig.owner.state.widened
        assert len(rig.log.of("cvq.table.widened")) == 2
        assert await guest.echo(frame(table.unicast[50]))

        assert await guest.command(MacTableSet((MAC_B,), ()).encode()) == OK
        assert not rig.owner.state.widened
        assert await guest.echo(frame(MAC_B))
        assert not await guest.echo(frame(MAC_A))


async def test_ten_thousand_addresses_and_every_vlan_are_taken(tmp_path: Path):
    async with Rig.opened(tmp_path) as rig, rig.guest("uml") as guest:
        await guest.start()
        addresses = tuple(b"\3\0\0\0" + entry.to_bytes(2, "big") for entry in range(10_000))
        assert await guest.command(MacTableSet((), addresses).encode()) == OK
        for vid in range(4096):
            assert await guest.command(VlanAdd(vid).encode()) == OK
        agree(rig.owner.state, rig.device.net.control.state)
        await restart(guest)
        agree(rig.owner.state, rig.device.net.control.state)


async def test_a_queue_that_was_left_out_of_a_start_has_its_values_again_once_it_runs(tmp_path: Path):
    values = Coalescing(4, 40)
    async with Rig.opened(tmp_path) as rig, rig.guest() as guest:
        await guest.start()
        assert await guest.command(CoalVqSet(3, values).encode()) == OK
        await guest.front_end.get_vring_base(3)
        guest.driver.queues[0].notify()
        await settled()
        assert rig.owner.running == {0, 1, 2, 4}
        await guest.front_end.set_vring_kick(3, guest.driver.queues[3].kick)
        assert rig.owner.running == {0, 1, 2, 3, 4}
        assert rig.device.net.control.coalescing(3) == values


async def test_commands_of_features_that_the_guest_declined_are_refused_by_name(tmp_path: Path, spec):
    async with Rig.opened(tmp_path, spec) as rig:
        needed = {command.feature for command in COMMANDS}
        without = everything(rig) & ~sum(feature.mask for feature in needed)
        async with rig.guest("uml", features=without) as guest:
            await guest.start()
            requests = [command.encode() for command in COMMANDS]
            for request in [*requests, b"\x07\0\0\0\0\0", b"\x09\0", b"\x63\7"]:
                assert await guest.command(request) == ERR
            await settled()
            refused = rig.log.of("cvq.command.refused")
            assert [event["reason"] for event in refused] == [
                *["command.not_negotiated"] * len(COMMANDS),
                *["command.unknown"] * 3,
            ]
            assert [event["command"] for event in refused[-3:]] == [
                "hash_tunnel.0",
                "rss_ctx.0",
                "class_99.7",
            ]
