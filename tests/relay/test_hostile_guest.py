"""Chains and commands that no driver makes: each is answered or named, and the queue goes on.

The words of ``GuestError.reason`` are a promise to whoever counts them, so
every case says which one it is.
"""

from __future__ import annotations

import gc
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from cvqd.simulator.spec import SimulatorSpec, default_features
from cvqd.testing.driver import Segment
from cvqd.wire.net_control import ERR, MacAddrSet, MacTableSet, RxMode, RxModeSet, VlanAdd, VqPairsSet
from cvqd.wire.split_ring import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Descriptor
from cvqd.wire.virtio import Feature, mask_of
from kit.rig import BROADCAST, MAC_A, MAC_B, Guest, Rig, frame, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

UNTOUCHED = 0xEE
N, W, X = DESC_NEXT, DESC_WRITE, DESC_INDIRECT
GOOD = MacAddrSet(MAC_A).encode()

RINGS = mask_of(Feature.RING_PACKED, Feature.INDIRECT_DESC, Feature.EVENT_IDX)
FORMATS = {
    "split": 0,
    "split-indirect": Feature.INDIRECT_DESC.mask,
    "split-event-index": Feature.EVENT_IDX.mask,
    "packed": Feature.RING_PACKED.mask,
    "packed-indirect": mask_of(Feature.RING_PACKED, Feature.INDIRECT_DESC),
    "packed-all": RINGS,
}
EVERYTHING = SimulatorSpec(max_queue_pairs=2, features=default_features(2) | RINGS)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig.opened(tmp_path, EVERYTHING) as rig:
        yield rig


@pytest.fixture
async def guest(rig: Rig) -> AsyncIterator[Guest]:
    """One whose ring is a plain split one, for tests that reach into it."""
    async with rig.guest(num=64, features=rig.features & ~RINGS) as guest:
        await guest.start()
        yield guest


@pytest.fixture(params=FORMATS.values(), ids=list(FORMATS))
async def any_guest(rig: Rig, request: pytest.FixtureRequest) -> AsyncIterator[Guest]:
    """One with each ring format in turn."""
    async with rig.guest(num=64, features=rig.features & ~RINGS | request.param) as guest:
        await guest.start()
        yield guest


class Place(NamedTuple):
    """A command of eight bytes, the byte for its answer, room behind it, and what is not the guest's."""

    command: int
    ack: int
    outside: int


class Malformed(NamedTuple):
    """Descriptors by slot; ``written`` is 1 where a byte for the answer came before the fault."""

    reason: str
    written: int
    descriptors: Callable[[Place], dict[int, tuple[int, int, int, int]]]


CHAINS = {
    "a loop of one": Malformed("chain.loop", 0, lambda p: {0: (p.command, 8, N, 0)}),
    "a loop of two": Malformed("chain.loop", 0, lambda p: {0: (p.command, 8, N, 1), 1: (p.command, 8, N, 0)}),
    "a loop behind the answer": Malformed(
        "chain.loop", 1, lambda p: {0: (p.command, 8, N, 1), 1: (p.ack, 1, N | W, 1)}
    ),
    "one descriptor more than the ring has": Malformed(
        "chain.loop", 0, lambda p: {slot: (p.command, 1, N, (slot + 1) % 64) for slot in range(64)}
    ),
    "an empty readable segment": Malformed(
        "chain.empty_segment", 0, lambda p: {0: (p.command, 0, N, 1), 1: (p.ack, 1, W, 0)}
    ),
    "an empty writable segment": Malformed(
        "chain.empty_segment", 0, lambda p: {0: (p.command, 8, N, 1), 1: (p.ack, 0, W, 0)}
    ),
    "a segment of 4 GiB": Malformed(
        "memory.unmapped", 0, lambda p: {0: (p.command, 2**32 - 1, N, 1), 1: (p.ack, 1, W, 0)}
    ),
    "a segment over the end of all addresses": Malformed(
        "memory.unmapped", 0, lambda p: {0: (2**64 - 4, 8, N, 1), 1: (p.ack, 1, W, 0)}
    ),
    "no writable byte": Malformed("chain.no_answer", 0, lambda p: {0: (p.command, 8, 0, 0)}),
    "nothing but a fault behind the answer": Malformed(
        "memory.unmapped", 1, lambda p: {0: (p.ack, 1, N | W, 1), 1: (p.outside, 8, W, 0)}
    ),
    "an unreadable command": Malformed(
        "memory.unmapped", 0, lambda p: {0: (p.outside, 8, N, 1), 1: (p.ack, 1, W, 0)}
    ),
    "an unwritable answer": Malformed(
        "memory.unmapped", 0, lambda p: {0: (p.command, 8, N, 1), 1: (p.outside, 1, W, 0)}
    ),
    "readable behind writable": Malformed(
        "chain.order",
        1,
        lambda p: {0: (p.command, 2, N, 1), 1: (p.ack, 1, N | W, 2), 2: (p.command + 2, 6, 0, 0)},
    ),
    "an indirect table": Malformed("chain.indirect", 0, lambda p: {0: (p.command, 32, X, 0)}),
    "an indirect table in a chain": Malformed(
        "chain.indirect", 1, lambda p: {0: (p.ack, 1, N | W, 1), 1: (p.command, 32, X | W, 0)}
    ),
    "next outside the table": Malformed("chain.next", 0, lambda p: {0: (p.command, 8, N, 64)}),
    "next far outside the table": Malformed("chain.next", 1, lambda p: {0: (p.ack, 1, N | W, 0xFFFF)}),
}


@pytest.mark.parametrize("case", CHAINS.values(), ids=list(CHAINS))
async def test_a_malformed_chain_is_given_back_once_with_err(rig: Rig, guest: Guest, case: Malformed) -> None:
    command, ack = guest.memory.allocate(64), guest.memory.allocate(64)
    guest.memory.write(command, GOOD)
    guest.memory.write(ack, bytes((UNTOUCHED,)))
    place = Place(command, ack, guest.memory.guest_address + guest.memory.size)
    descriptors = {slot: Descriptor(*entry) for slot, entry in case.descriptors(place).items()}
    guest.control.add_raw(0, list(descriptors.items()))
    guest.control.notify()
    used = await guest.control.wait()
    assert used == (0, case.written)
    assert guest.memory.view(ack, 1)[0] == (ERR if case.written else UNTOUCHED)
    assert guest.control.poll() is None
    assert rig.counters["chains_malformed"] == rig.counters[case.reason] == 1
    assert [event["reason"] for event in rig.log.of("cvq.chain.malformed")] == [case.reason]
    assert rig.status["commands"][-1]["outcome"] == "malformed"
    assert rig.device.statistics.cvq_requests == 0
    await guest.set_mac(MAC_B)


def mac_table(unicast: int, multicast: int, entries: int) -> bytes:
    """Counts as claimed, entries as sent."""
    return b"\x01\x00" + struct.pack("<I", unicast) + bytes(6) * entries + struct.pack("<I", multicast)


COMMANDS = {
    "nothing": (b"", "command.header"),
    "half a header": (b"\x01", "command.header"),
    "a header alone": (GOOD[:2], "command.length"),
    "an address cut short": (GOOD[:7], "command.length"),
    "an address too long": (GOOD + b"\0", "command.length"),
    "a group address": (MacAddrSet(BROADCAST).encode(), "mac.not_unicast"),
    "no address": (MacAddrSet(bytes(6)).encode(), "mac.not_unicast"),
    "no pairs": (VqPairsSet(0).encode(), "mq.pairs"),
    "more pairs than there are": (VqPairsSet(3).encode(), "mq.pairs"),
    "all the pairs of the field": (VqPairsSet(0x8000).encode(), "mq.pairs"),
    "pairs cut short": (VqPairsSet(1).encode()[:3], "command.length"),
    "a VLAN above 4095": (VlanAdd(4096).encode(), "vlan.id"),
    "a receive mode of 2": (RxModeSet(RxMode.PROMISC, 2).encode(), "rx.value"),
    "an unknown command": (b"\x01\x09", "command.unknown"),
    "an unknown class": (b"\xfe\x09" + bytes(30), "command.unknown"),
    "a table without its second list": (b"\x01\x00" + bytes(4), "command.length"),
    "a table that claims one entry more": (mac_table(3, 0, 2), "command.length"),
    "a table that claims 2^32-1 entries": (mac_table(2**32 - 1, 0, 100), "command.length"),
    "a table whose second list lies": (mac_table(1, 2**31, 1), "command.length"),
    "a table with bytes behind it": (MacTableSet((), ()).encode() + b"\0", "command.length"),
    "a command above the limit": (b"\x01\x00" + bytes(64 << 10), "command.too_long"),
}


@pytest.mark.parametrize(("command", "reason"), COMMANDS.values(), ids=list(COMMANDS))
async def test_a_wrong_command_ends_in_err_and_never_reaches_the_device(
    rig: Rig, any_guest: Guest, command: bytes, reason: str
) -> None:
    before = rig.owner.state
    address = any_guest.memory.allocate(len(command) + 1)
    any_guest.memory.write(address, command + bytes((UNTOUCHED,)))
    ack = address + len(command)
    readable = [Segment(address, len(command))] if command else []
    any_guest.control.add([*readable, Segment(ack, 1, writable=True)])
    any_guest.control.notify()
    used = await any_guest.control.wait()
    assert used.written == 1
    assert any_guest.memory.view(ack, 1)[0] == ERR
    (refused,) = rig.log.of("cvq.command.refused")
    assert refused["reason"] == reason
    assert rig.device.statistics.cvq_requests == 0
    assert rig.owner.state == before
    await any_guest.set_mac(MAC_B)


async def test_a_command_that_was_not_negotiated_ends_in_err(rig: Rig) -> None:
    async with rig.guest(features=rig.features & ~Feature.CTRL_VLAN.mask) as guest:
        await guest.start()
        assert await guest.command(VlanAdd(5).encode()) == ERR
        assert rig.log.of("cvq.command.refused")[0]["reason"] == "command.not_negotiated"
        await guest.set_mac()


async def test_the_largest_honest_table_is_taken(rig: Rig, any_guest: Guest) -> None:
    entries = ((64 << 10) - 10) // 6
    table = MacTableSet(tuple(index.to_bytes(6, "big") for index in range(entries)), ())
    assert len(table.encode()) <= 64 << 10
    assert await any_guest.command(table.encode()) == 0
    assert rig.owner.state.unicast == table.unicast
    assert rig.device.net.control.state.unicast == frozenset(table.unicast)


async def test_a_command_in_single_bytes_is_a_command(rig: Rig, any_guest: Guest) -> None:
    """Layouts are the driver's choice (virtio 1.3 §2.7.4), in 63 descriptors as well as in three."""
    table = MacTableSet(tuple(bytes((2, 0, 0, 0, 0, index)) for index in range(8)), ()).encode()
    assert len(table) == 58
    address = any_guest.memory.allocate(64)
    any_guest.memory.write(address, table)
    ack = any_guest.memory.allocate(1)
    head = any_guest.control.add(
        [*(Segment(address + byte, 1) for byte in range(58)), Segment(ack, 1, writable=True)]
    )
    any_guest.control.notify()
    assert await any_guest.control.wait() == (head, 1)
    assert len(rig.owner.state.unicast) == 8


async def test_only_the_first_writable_byte_is_written(rig: Rig, any_guest: Guest) -> None:
    address = any_guest.memory.allocate(64)
    any_guest.memory.write(address, GOOD + bytes((UNTOUCHED,)) * 56)
    any_guest.control.add([Segment(address, 8), Segment(address + 8, 56, writable=True)])
    any_guest.control.notify()
    assert (await any_guest.control.wait()).written == 1
    assert bytes(any_guest.memory.view(address + 8, 56)) == b"\0" + bytes((UNTOUCHED,)) * 55
    assert rig.owner.state.mac == MAC_A


async def test_bad_and_good_commands_of_one_batch_are_answered_in_their_order(
    rig: Rig, any_guest: Guest
) -> None:
    commands = [GOOD, VqPairsSet(9).encode(), VqPairsSet(2).encode(), b"\x07", MacAddrSet(MAC_B).encode()] * 4
    heads = [any_guest.driver.post_command(command) for command in commands]
    any_guest.control.notify()
    acks = []
    for head in heads:
        used = await any_guest.control.wait()
        assert used.head == head
        acks.append(any_guest.driver.take_ack(head))
    assert acks == [0, ERR, 0, ERR, 0] * 4
    assert (rig.owner.state.mac, rig.owner.state.pairs) == (MAC_B, 2)
    assert rig.device.net.control.state.mac == MAC_B


# queues that cannot be followed


def avail_jumps(guest: Guest, by: int) -> None:
    guest.control.ring.available_index += by
    guest.control.notify()


BROKEN: dict[str, tuple[str, Callable[[Guest], None]]] = {
    "a head outside the table": ("queue.head", lambda guest: guest.control.add_raw(64)),
    "a head far outside the table": ("queue.head", lambda guest: guest.control.add_raw(0xFFFF)),
    "more entries than the ring has": ("queue.index", lambda guest: avail_jumps(guest, 65)),
    "an index that goes back": ("queue.index", lambda guest: avail_jumps(guest, -1)),
    "an index half way round": ("queue.index", lambda guest: avail_jumps(guest, 0x8000)),
}


@pytest.mark.parametrize(("reason", "damage"), BROKEN.values(), ids=list(BROKEN))
async def test_a_queue_that_cannot_be_followed_is_left_alone_until_it_starts_anew(
    rig: Rig, guest: Guest, reason: str, damage: Callable[[Guest], None]
) -> None:
    guest.driver.fill()
    await guest.set_mac(MAC_A)
    damage(guest)
    guest.control.notify()
    await settled()
    assert [event["reason"] for event in rig.log.of("cvq.broken")] == [reason]
    assert rig.counters["queue_broken"] == 1
    guest.driver.post_command(GOOD)
    guest.control.notify()
    await settled()
    assert guest.control.poll() is None
    assert len(rig.log.of("cvq.broken")) == 1, "said once"
    assert await guest.echo(frame(MAC_A)), "the data path has no part in it"

    await guest.stop()
    guest.driver.restart()
    await guest.start()
    await guest.set_mac(MAC_B)


async def test_commands_before_the_damage_are_answered(rig: Rig, guest: Guest) -> None:
    head = guest.driver.post_command(GOOD)
    guest.control.add_raw(0x7777)
    guest.control.notify()
    assert (await guest.control.wait()).head == head
    assert guest.driver.take_ack(head) == 0
    await settled()
    assert rig.owner.state.mac == MAC_A
    assert rig.log.of("cvq.broken")[0]["reason"] == "queue.head"


async def test_a_chain_published_twice_is_two_commands(guest: Guest) -> None:
    """Against the rules, and the guest's own loss: it is given back as often as it was offered."""
    head = guest.driver.post_command(GOOD)
    guest.control.publish(head)
    guest.control.notify()
    await settled()
    assert guest.control.poll() == (head, 1)
    assert guest.control.poll() == (head, 1)
    assert guest.control.poll() is None
    await guest.set_mac(MAC_B)


async def test_a_full_ring_of_commands_is_answered(guest: Guest) -> None:
    for _ in range(3):
        address = guest.memory.allocate(16)
        guest.memory.write(address, GOOD)
        for slot in range(0, 64, 2):
            guest.control.ring.put_descriptor(slot, Descriptor(address, 8, N, slot + 1))
            guest.control.ring.put_descriptor(slot + 1, Descriptor(address + 8, 1, W, 0))
        for entry in range(64):
            guest.control.publish(2 * (entry % 32))
        guest.control.notify()
        heads = [(await guest.control.wait()).head for _ in range(64)]
        assert heads == [2 * (entry % 32) for entry in range(64)]
        assert guest.control.poll() is None


async def test_strange_names_do_not_fill_the_counters(rig: Rig, any_guest: Guest) -> None:
    for class_ in range(16, 32):
        heads = [any_guest.driver.post_command(bytes((class_, command))) for command in range(16)]
        any_guest.control.notify()
        for head in heads:
            await any_guest.control.wait()
            assert any_guest.driver.take_ack(head) == ERR
    answers = rig.status["counters"]["answers"]
    assert answers == {"unknown": {"refused": 256}}


async def test_nothing_of_the_guests_memory_is_kept_when_it_has_gone(rig: Rig) -> None:
    """A virtual machine's memory is not freed as long as anybody maps it."""

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:guest")

    gc.collect()
    gc.disable()
    try:
        async with rig.guest(num=64) as guest:
            await guest.start()
            await guest.set_mac()
            await guest.command(VqPairsSet(9).encode())
            for case in CHAINS.values():
                place = Place(guest.memory.guest_address, guest.memory.guest_address + 64, 0)
                for slot, entry in case.descriptors(place).items():
                    guest.control.ring.put_descriptor(slot, Descriptor(*entry))
                guest.control.publish(0)
            guest.control.add_raw(0x7777)
            guest.control.notify()
            await settled()
            assert rig.log.of("cvq.broken")
            held = mapped()
            assert held == 2, "the driver's own and the daemon's"
        assert mapped() == 1
    finally:
        gc.enable()
