"""Packed rings that no driver makes: each buffer is answered or named, and the queue goes on where it can.

What does not depend on the format is in ``test_hostile_guest``, which runs over all of them.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from cvqd.simulator.spec import SimulatorSpec, default_features
from cvqd.wire.net_control import ERR, OK, MacAddrSet
from cvqd.wire.packed_ring import DESC_AVAILABLE, DESC_USED, available_flags, used_flags
from cvqd.wire.split_ring import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, DESCRIPTOR
from cvqd.wire.virtio import Feature
from kit.rig import MAC_A, MAC_B, Guest, Rig, frame, jumping_clock, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

UNTOUCHED = 0xEE
NUM = 64
N, W, X = DESC_NEXT, DESC_WRITE, DESC_INDIRECT
GOOD = MacAddrSet(MAC_A).encode()
SPEC = SimulatorSpec(max_queue_pairs=2, features=default_features(2) | Feature.RING_PACKED.mask)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig.opened(tmp_path, SPEC) as rig:
        yield rig


@pytest.fixture
async def guest(rig: Rig) -> AsyncIterator[Guest]:
    async with rig.guest(num=NUM, features=rig.features & ~Feature.EVENT_IDX.mask) as guest:
        await guest.start()
        yield guest


class Place(NamedTuple):
    """A command of eight bytes, the byte for its answer, an indirect table, and what is not the guest's."""

    command: int
    ack: int
    table: int
    outside: int


def put(guest: Guest, position: int, *rows: tuple[int, int, int], id_: int = 7, wrap: bool = True) -> None:
    """Descriptors (address, length, flags) from a position on, available in a lap."""
    ring = guest.control.packed
    for place, (address, length, flags) in reversed(list(enumerate(rows, position))):
        ring.put_body(place % NUM, address, length, id_)
        ring.put_flags(place % NUM, flags | available_flags(wrap=wrap))


def place_for(guest: Guest, *table: tuple[int, int, int]) -> Place:
    command, ack = guest.memory.allocate(64), guest.memory.allocate(64)
    guest.memory.write(command, GOOD)
    guest.memory.write(ack, bytes((UNTOUCHED,)))
    data = b"".join(DESCRIPTOR.pack(address, length, 0, flags) for address, length, flags in table)
    where = guest.memory.allocate(max(16, len(data)))
    guest.memory.write(where, data)
    return Place(command, ack, where, guest.memory.guest_address + guest.memory.size)


Rows = list[tuple[int, int, int]]
CHAINS: dict[str, tuple[str, int, Callable[[Place], Rows]]] = {
    "an empty readable segment": (
        "chain.empty_segment",
        0,
        lambda p: [(p.command, 0, N), (p.ack, 1, W)],
    ),
    "an empty segment behind the answer": (
        "chain.empty_segment",
        1,
        lambda p: [(p.command, 8, N), (p.ack, 1, N | W), (p.ack + 1, 0, W)],
    ),
    "a segment of 4 GiB": ("memory.unmapped", 0, lambda p: [(p.command, 2**32 - 1, N), (p.ack, 1, W)]),
    "a segment over the end of all addresses": (
        "memory.unmapped",
        0,
        lambda p: [(2**64 - 4, 8, N), (p.ack, 1, W)],
    ),
    "an unwritable answer": ("memory.unmapped", 0, lambda p: [(p.command, 8, N), (p.outside, 1, W)]),
    "no writable byte": ("chain.no_answer", 0, lambda p: [(p.command, 8, 0)]),
    "readable behind writable": (
        "chain.order",
        1,
        lambda p: [(p.command, 2, N), (p.ack, 1, N | W), (p.command + 2, 6, 0)],
    ),
    "the whole ring in one chain": (
        "chain.no_answer",
        0,
        lambda p: [*[(p.command, 1, N)] * (NUM - 1), (p.command, 1, 0)],
    ),
    "a table in a chain": ("chain.indirect", 0, lambda p: [(p.command, 8, N), (p.table, 16, X)]),
    "a chain behind a table": ("chain.indirect", 0, lambda p: [(p.table, 16, X | N), (p.ack, 1, W)]),
    "half a table": ("chain.indirect", 0, lambda p: [(p.table, 8, X)]),
    "an empty table": ("chain.indirect", 0, lambda p: [(p.table, 0, X)]),
    "a table of 4 GiB": ("chain.indirect", 0, lambda p: [(p.table, 2**32 - 16, X)]),
    "a table outside": ("memory.unmapped", 0, lambda p: [(p.outside, 16, X)]),
}


@jumping_clock
@pytest.mark.parametrize(("reason", "written", "rows"), CHAINS.values(), ids=list(CHAINS))
async def test_a_malformed_chain_is_given_back_once_and_the_next_is_served(
    rig: Rig, guest: Guest, reason: str, written: int, rows: Callable[[Place], Rows]
) -> None:
    place = place_for(guest)
    chain = rows(place)
    put(guest, 0, *chain, id_=0x1234)
    guest.control.notify()
    await settled()
    ring = guest.control.packed
    given_back = used_flags(wrap=True) | (W if written else 0)
    assert ring.descriptor(0)[1:] == (written, 0x1234, given_back)
    # the whole ring ends a lap
    following, same_lap = len(chain) % NUM, len(chain) < NUM
    put(guest, following, (place.command, 8, N), (place.ack + 8, 1, W), id_=9, wrap=same_lap)
    guest.control.notify()
    await settled()
    assert ring.descriptor(following)[1:] == (1, 9, used_flags(wrap=same_lap) | W)
    assert guest.memory.view(place.ack, 1)[0] == (ERR if written else UNTOUCHED)
    assert guest.memory.view(place.ack + 8, 1)[0] == OK
    assert rig.counters["chains_malformed"] == rig.counters[reason] == 1
    assert rig.owner.state.mac == MAC_A


TABLES = {
    "a table in a table": ("chain.indirect", 0, lambda p: [(p.command, 8, 0), (p.table, 16, X)]),
    "an empty segment": ("chain.empty_segment", 0, lambda p: [(p.command, 0, 0), (p.ack, 1, W)]),
    "an answer and then nothing": (
        "memory.unmapped",
        1,
        lambda p: [(p.command, 8, 0), (p.ack, 1, W), (p.outside, 1, W)],
    ),
}


@jumping_clock
@pytest.mark.parametrize(("reason", "written", "rows"), TABLES.values(), ids=list(TABLES))
async def test_a_malformed_table_is_given_back_once(
    rig: Rig, guest: Guest, reason: str, written: int, rows: Callable[[Place], Rows]
) -> None:
    place = place_for(guest)
    table = b"".join(DESCRIPTOR.pack(address, length, 0, flags) for address, length, flags in rows(place))
    where = guest.memory.allocate(len(table))
    guest.memory.write(where, table)
    put(guest, 0, (where, len(table), X))
    guest.control.notify()
    await settled()
    assert guest.control.packed.descriptor(0)[1:3] == (written, 7)
    assert rig.counters[reason] == 1


BROKEN: dict[str, tuple[str, Callable[[Guest, Place], None]]] = {
    "a chain without an end": (
        "queue.chain",
        lambda guest, p: put(guest, 0, *[(p.command, 1, N)] * NUM),
    ),
    "more buffers than descriptors": (
        "queue.index",
        lambda guest, p: put(guest, 0, *[(p.command, 8, 0)] * (NUM - 1), (p.command, 8, N)),
    ),
}


@jumping_clock
@pytest.mark.parametrize(("reason", "damage"), BROKEN.values(), ids=list(BROKEN))
async def test_a_ring_that_cannot_be_followed_is_left_alone_until_it_starts_anew(
    rig: Rig, guest: Guest, reason: str, damage: Callable[[Guest, Place], None]
) -> None:
    guest.driver.fill()
    damage(guest, place_for(guest))
    guest.control.notify()
    await settled()
    assert [event["reason"] for event in rig.log.of("cvq.broken")] == [reason]
    guest.control.notify()
    await settled()
    assert len(rig.log.of("cvq.broken")) == 1, "said once"
    assert await guest.echo(frame(SPEC.mac)), "the data path has no part in it"

    await guest.stop()
    guest.driver.restart()
    await guest.start()
    await guest.set_mac(MAC_B)


@jumping_clock
async def test_ownership_bits_of_another_lap_offer_nothing(rig: Rig, guest: Guest) -> None:
    place = place_for(guest)
    ring = guest.control.packed
    ring.put_body(0, place.command, 8, 0)
    for flags in (0, DESC_USED, DESC_AVAILABLE | DESC_USED, N | W, N | W | X | DESC_USED):
        ring.put_flags(0, flags)
        guest.control.notify()
        await settled()
    assert rig.device.statistics.cvq_requests == 0
    assert not any(rig.counters.values())
    await guest.set_mac(MAC_B)


@jumping_clock
async def test_nothing_of_the_guests_memory_is_kept_when_it_has_gone(rig: Rig) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:guest")

    gc.collect()
    gc.disable()
    try:
        async with rig.guest(num=NUM, features=rig.features) as guest:
            await guest.start()
            await guest.set_mac()
            put(guest, 1, (guest.memory.guest_address, 8, N), (0, 8, W))
            put(guest, 3, *[(guest.memory.guest_address, 1, N)] * NUM)
            guest.control.notify()
            await settled()
            assert rig.log.of("cvq.broken")
            assert mapped() == 2, "the driver's own and the daemon's"
        assert mapped() == 1
    finally:
        gc.enable()
