"""Both ends of a ring against each other: any traffic, any format, any lap; and nobody sleeps through it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvqd.core.address_space import AddressSpace
from cvqd.core.queues.driver_ring import driver_ring
from cvqd.core.queues.guest_queue import GuestQueue
from cvqd.core.queues.ring_error import RingError
from cvqd.errors import GuestError
from cvqd.testing.played_ring import PlayedRing, Table
from cvqd.wire.packed_ring import (
    EVENT_DESCRIPTOR,
    EVENT_DISABLE,
    INITIAL_BASE,
    PackedBase,
    PackedRing,
    available_flags,
    used_flags,
)
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.split_ring import (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    DESCRIPTOR,
    NO_NOTIFICATION,
    Descriptor,
    SplitRing,
)
from kit.ring_memory import no_fence

if TYPE_CHECKING:
    from cvqd.core.queues.chain import Chain

FORMATS = [
    RingFormat(packed, indirect, event_index)
    for packed in (False, True)
    for indirect in (False, True)
    for event_index in (False, True)
]
NAMES = ["-".join(name for name, on in each._asdict().items() if on) or "split" for each in FORMATS]
every_format = pytest.mark.parametrize("ring_format", FORMATS, ids=NAMES)
N, W, X = DESC_NEXT, DESC_WRITE, DESC_INDIRECT
BASE = 0x10_0000


@dataclass
class Both:
    """A ring of ``num`` in plain memory, its driver, and the device that looks at it."""

    ring_format: RingFormat
    num: int
    memory: memoryview = field(default_factory=lambda: memoryview(bytearray(256 << 10)))
    used: int = 0

    def __post_init__(self) -> None:
        self.space = AddressSpace()
        self.space.add(BASE, self.memory)
        sizes = self.ring_format.sizes(self.num)
        self.ring = self.ring_format.open(self.num, [self.view(*self.take(size)) for size in sizes])
        self.driver = PlayedRing(self.ring, self.ring_format, lambda size: Table(*self.table(size)))
        self.device = self.attach(None)

    def attach(self, base: int | None) -> GuestQueue:
        return GuestQueue(
            self.ring,
            self.space,
            no_fence,
            base,
            indirect=self.ring_format.indirect,
            event_index=self.ring_format.event_index,
        )

    def take(self, size: int) -> tuple[int, int]:
        begin, self.used = self.used, self.used + -(-size // 16) * 16
        return BASE + begin, size

    def view(self, address: int, size: int) -> memoryview:
        return self.memory[address - BASE : address - BASE + size]

    def table(self, size: int) -> tuple[int, memoryview]:
        address, _ = self.take(size)
        return address, self.view(address, size)

    def put(self, data: bytes) -> int:
        address, size = self.take(len(data))
        self.view(address, size)[:] = data
        return address

    def pop(self) -> Chain:
        chain = self.device.pop()
        assert chain is not None
        return chain


def parts_of(both: Both, data: bytes, cuts: int, room: int) -> list[tuple[int, int, int]]:
    """``data`` in up to ``cuts`` readable parts and one writable part of ``room`` bytes."""
    at = both.put(data)
    size = -(-len(data) // cuts)
    parts = [(at + begin, len(data[begin : begin + size]), 0) for begin in range(0, len(data), size)]
    return [*parts, (both.put(bytes(room)), room, W)]


@dataclass
class Traffic:
    """The two ends and what each is owed.  Both sleep when they find nothing, until they are told."""

    both: Both
    sent: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    taken: list[Chain] = field(default_factory=list)
    given: list[tuple[int, int]] = field(default_factory=list)
    popped: int = 0
    offered: int = 0
    device_awake: bool = False
    driver_awake: bool = False

    def offer(self, length: int, cuts: int, *, tell: bool) -> None:
        both = self.both
        data = self.offered.to_bytes(4, "big") + bytes(length)
        needed = 1 if both.ring_format.indirect else len(parts_of(both, data, cuts, 8))
        if both.driver.free >= needed:
            parts = parts_of(both, data, cuts, 8)
            id_ = both.driver.add(parts)
            assert id_ not in self.sent
            self.sent[id_] = data, parts[-1][0]
            self.offered += 1
        if tell and both.driver.kick_wanted():
            self.device_awake = True

    def serve(self) -> None:
        """The device looks until it finds nothing, if it is awake."""
        while self.device_awake:
            chain = self.both.device.pop()
            if chain is None:
                self.device_awake = False
                return
            assert chain.fault is None, chain.fault
            data, _ = self.sent[chain.head]
            assert chain.read(1000) == data
            assert int.from_bytes(data[:4], "big") == self.popped, "in the driver's order"
            self.popped += 1
            assert chain.writable_length == 8
            self.taken.append(chain)

    def give(self, which: int, count: int = 1) -> None:
        """The device gives some back at once, not always the oldest first."""
        if not self.taken:
            return
        for _ in range(min(count, len(self.taken))):
            chain = self.taken.pop(which % len(self.taken))
            answer = self.sent[chain.head][0][:4]
            self.given.append((chain.head, chain.write(answer)))
            self.both.device.push(chain, 4)
        self.both.device.publish()
        if self.both.device.call_wanted():
            self.driver_awake = True

    def collect(self) -> None:
        while self.driver_awake:
            returned = self.both.driver.take()
            if returned is None:
                self.driver_awake = False
                return
            assert returned == self.given.pop(0)
            data, answer = self.sent.pop(returned[0])
            assert bytes(self.both.view(answer, 4)) == data[:4]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 20), st.integers(1, 3)),
        st.tuples(st.just("serve"), st.just(0), st.just(0)),
        st.tuples(st.just("give"), st.integers(0, 7), st.integers(1, 4)),
        st.tuples(st.just("collect"), st.just(0), st.just(0)),
    ),
    min_size=20,
    max_size=200,
)


@every_format
@settings(max_examples=60, deadline=None)
@given(num=st.sampled_from([1, 2, 4, 8]), steps=STEPS, start=st.sampled_from([0, 0xFFF0, 0x7FFF]))
def test_what_goes_in_comes_out_and_whoever_sleeps_is_woken(
    ring_format: RingFormat, num: int, steps: list[tuple[str, int, int]], start: int
) -> None:
    both = Both(ring_format, num)
    if not ring_format.packed:
        both.driver.skip_to(start)
        both.ring.available_event = both.ring.used_event = start
        both.device = both.attach(start)
    traffic = Traffic(both)
    # as at DRIVER_OK: each end looks once
    traffic.device_awake = traffic.driver_awake = True
    traffic.serve()
    traffic.collect()
    for name, first, second in steps:
        match name:
            case "offer":
                traffic.offer(first, second, tell=True)
            case "serve":
                traffic.serve()
            case "give":
                traffic.give(first, second)
            case "collect":
                traffic.collect()
    traffic.serve()
    while traffic.taken:
        traffic.give(0)
    traffic.collect()
    assert traffic.sent == {}, "everything came back, by notifications alone"
    assert traffic.popped == traffic.offered
    assert both.driver.free == num


@every_format
@pytest.mark.parametrize("num", [2, 8])
def test_a_ring_goes_round_for_ever_and_is_taken_over_anywhere(ring_format: RingFormat, num: int) -> None:
    both = Both(ring_format, num)
    if not ring_format.packed:
        both.driver.skip_to(0xFF00)
        both.device = both.attach(0xFF00)
    at = both.put(b"ab")
    answer = both.put(bytes(1))
    for lap in range(2_000):
        id_ = both.driver.add([(at, 1, 0), (answer, 1, W)])
        if lap % 7 == 0:
            # another device goes on where this one stood, with one buffer not yet fetched
            both.device = both.attach(both.device.base)
        chain = both.pop()
        assert chain.head == id_
        both.device.push(chain, 1)
        both.device.publish()
        assert both.driver.take() == (id_, 1)
    assert both.device.base == both.driver.base


@given(num=st.integers(2, 9), lengths=st.lists(st.integers(1, 4), max_size=60))
@settings(max_examples=60, deadline=None)
def test_a_packed_ring_of_any_size_takes_chains_across_its_end(num: int, lengths: list[int]) -> None:
    both = Both(RingFormat(packed=True), num)
    for place, count in enumerate(length for length in lengths if length <= num):
        ats = [both.put(bytes([place])) for _ in range(count)]
        id_ = both.driver.add([(at, 1, 0) for at in ats])
        chain = both.pop()
        assert (chain.head, chain.descriptors, chain.read(9)) == (id_, count, bytes([place]) * count)
        both.device.push(chain, 0)
        both.device.publish()
        assert both.driver.take() == (id_, 0)


def test_the_base_of_a_packed_ring_has_two_places_and_two_laps():
    assert INITIAL_BASE == 0x8000_8000
    assert PackedBase.decode(0x0003_8005) == (5, True, 3, False)
    for word in (0, 0xFFFF_FFFF, 0x1234_5678, INITIAL_BASE):
        assert PackedBase.decode(word).encode() == word


# what drivers do wrong


def fault(both: Both) -> str:
    chain = both.pop()
    assert chain.fault is not None
    both.device.push(chain, 0)
    both.device.publish()
    return chain.fault.reason


def entries(*rows: tuple[int, int, int, int]) -> bytes:
    return b"".join(DESCRIPTOR.pack(*row) for row in rows)


#: rows are address, length, flags, next; a packed table has its flags last and no next
TABLES = {
    "no bytes": ("chain.indirect", lambda _at: [], 0),
    "half a descriptor": ("chain.indirect", lambda at: [(at, 1, 0, 0)], 24),
    "more descriptors than any chain has": ("chain.indirect", lambda at: [(at, 1, 0, 0)] * 257, None),
    "a table in a table": ("chain.indirect", lambda at: [(at, 16, X, 0)], None),
    "an empty segment": ("chain.empty_segment", lambda at: [(at, 0, 0, 0)], None),
    "nothing mapped": ("memory.unmapped", lambda _at: [(1, 1, 0, 0)], None),
    "a table that is not there": ("memory.unmapped", None, 16),
}


def refer(both: Both, address: int, length: int, flags: int = X) -> None:
    """One descriptor that names a table."""
    if isinstance(both.ring, PackedRing):
        position, wrap = both.device.base % 0x8000, bool(both.device.base & 0x8000)
        both.ring.put_body(position, address, length, 0)
        both.ring.put_flags(position, flags | available_flags(wrap=wrap))
    else:
        both.ring.put_descriptor(0, Descriptor(address, length, flags, 1))
        both.driver.publish_head(0)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("name", TABLES)
def test_a_malformed_table_is_a_fault_of_its_chain_and_the_ring_goes_on(*, packed: bool, name: str) -> None:
    reason, content, length = TABLES[name]
    both = Both(RingFormat(packed=packed, indirect=True), 8)
    at = both.put(b"x")
    rows = [] if content is None else content(at)
    table = entries(
        *((a, size, 0, flags) if packed else (a, size, flags, next_) for a, size, flags, next_ in rows)
    )
    address = 2**63 if content is None else both.put(table or b"\0")
    refer(both, address, len(table) if length is None else length)
    assert fault(both) == reason
    refer(both, both.put(entries((at, 1, 0, 0))), 16)
    chain = both.pop()
    assert chain.fault is None
    assert chain.read(9) == b"x"


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_a_table_is_refused_unless_it_was_negotiated(*, packed: bool) -> None:
    both = Both(RingFormat(packed=packed), 8)
    refer(both, both.put(entries((both.put(b"x"), 1, 0, 0))), 16)
    assert fault(both) == "chain.indirect"


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_a_chain_is_only_so_long_however_long_the_ring_is(*, packed: bool) -> None:
    both = Both(RingFormat(packed=packed), 4096)
    at = both.put(b"x")
    both.driver.add([(at, 1, 0)] * 1025)
    assert fault(both) == ("chain.long" if packed else "chain.loop")
    both.driver.add([(at, 1, 0)] * 1024)
    chain = both.pop()
    assert chain.fault is None
    assert chain.readable_length == 1024


def test_a_split_table_may_end_a_chain_and_its_loops_are_found() -> None:
    both = Both(RingFormat(indirect=True), 8)
    at, answer = both.put(b"xy"), both.put(b"\xff")
    table = both.put(entries((at + 1, 1, N, 1), (answer, 1, W, 0)))
    both.ring.put_descriptor(0, Descriptor(at, 1, N, 1))
    # the WRITE flag of the referring descriptor means nothing, virtio 1.3 §2.7.5.3.2
    both.ring.put_descriptor(1, Descriptor(table, 32, X | W, 0))
    both.driver.publish_head(0)
    chain = both.pop()
    assert chain.fault is None
    assert (chain.read(9), chain.writable_length) == (b"xy", 1)
    both.view(table, 32)[:] = entries((at, 1, N, 1), (at, 1, N, 0))
    both.driver.publish_head(0)
    assert fault(both) == "chain.loop"
    both.view(table, 32)[:] = entries((at, 1, N, 2), (at, 1, 0, 0))
    both.driver.publish_head(0)
    assert fault(both) == "chain.next"
    both.ring.put_descriptor(1, Descriptor(table, 32, X | N, 2))
    both.driver.publish_head(0)
    assert fault(both) == "chain.indirect"


def test_a_packed_table_stands_alone_and_is_read_in_order() -> None:
    both = Both(RingFormat(packed=True, indirect=True), 8)
    at = both.put(b"xy")
    table = both.put(entries((at + 1, 1, 0, N), (at, 1, 0, 0)))
    refer(both, table, 32)
    chain = both.pop()
    assert chain.fault is None
    assert chain.read(9) == b"yx"
    ring = both.ring
    ring.put_body(2, table, 32, 5)
    ring.put_flags(2, X | available_flags(wrap=True))
    ring.put_body(1, at, 1, 5)
    ring.put_flags(1, N | available_flags(wrap=True))
    chain = both.pop()
    assert chain.fault is not None
    assert chain.fault.reason == "chain.indirect"
    assert (chain.head, chain.descriptors) == (5, 2), "known all the same, so that it can be given back"


def test_a_packed_chain_without_an_end_breaks_the_queue() -> None:
    both = Both(RingFormat(packed=True), 4)
    at = both.put(b"x")
    for position in range(4):
        both.ring.put_body(position, at, 1, 0)
        both.ring.put_flags(position, N | available_flags(wrap=True))
    with pytest.raises(GuestError, match=r"queue\.chain"):
        both.device.pop()


def test_more_packed_buffers_than_there_are_descriptors_break_the_queue() -> None:
    both = Both(RingFormat(packed=True), 4)
    at = both.put(b"x")
    for lap in (True, False):
        for position in range(4):
            both.ring.put_body(position, at, 1, position)
            both.ring.put_flags(position, available_flags(wrap=lap))
        if lap:
            for _ in range(4):
                both.pop()
    with pytest.raises(GuestError, match=r"queue\.index"):
        both.device.pop()


def test_a_packed_buffer_is_known_by_the_id_of_its_last_descriptor() -> None:
    both = Both(RingFormat(packed=True), 8)
    parts = parts_of(both, b"data", 1, 8)
    id_ = both.driver.add(parts)
    both.ring.put_body(0, *parts[0][:2], id_ + 1)
    assert both.pop().head == id_


# what devices do wrong


def test_a_packed_id_that_is_not_out_is_the_end_of_the_ring() -> None:
    both = Both(RingFormat(packed=True), 4)
    driver = driver_ring(both.ring, no_fence)
    driver.offer([(both.put(b"x"), 1, 0)])
    driver.publish()
    both.ring.put_used(0, 77, 1)
    both.ring.put_flags(0, used_flags(wrap=True))
    with pytest.raises(RingError, match=r"used\.id") as caught:
        driver.take()
    assert caught.value.fatal


def test_a_packed_id_that_comes_back_twice_is_the_end_of_the_ring() -> None:
    both = Both(RingFormat(packed=True), 4)
    driver = driver_ring(both.ring, no_fence)
    ids = [driver.offer([(both.put(b"x"), 1, 0)]) for _ in range(2)]
    driver.publish()
    for place in range(2):
        both.ring.put_used(place, ids[0], 1)
        both.ring.put_flags(place, used_flags(wrap=True))
    assert driver.take() == (ids[0], 1)
    with pytest.raises(RingError, match=r"used\.id") as caught:
        driver.take()
    assert caught.value.fatal


# silence


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_a_driver_that_wants_no_calls_is_not_called(*, packed: bool) -> None:
    both = Both(RingFormat(packed=packed), 4)
    both.driver.add([(both.put(b"x"), 1, 0)])
    chain = both.pop()
    if isinstance(both.ring, SplitRing):
        both.ring.driver_flags = NO_NOTIFICATION
    else:
        both.ring.driver_event = (0, EVENT_DISABLE)
    both.device.push(chain, 0)
    both.device.publish()
    assert not both.device.call_wanted()


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_a_driver_may_ask_to_be_called_some_buffers_ahead(*, packed: bool) -> None:
    both = Both(RingFormat(packed=packed, event_index=True), 4)
    for _ in range(4):
        both.driver.add([(both.put(b"x"), 1, 0)])
    if isinstance(both.ring, SplitRing):
        both.ring.used_event = 2
    else:
        both.ring.driver_event = (2 | 0x8000, EVENT_DESCRIPTOR)
    called = []
    for _ in range(4):
        both.device.push(both.pop(), 0)
        both.device.publish()
        called.append(both.device.call_wanted())
    assert called == [False, False, True, False]


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_a_device_that_asked_for_silence_before_us_is_overruled(*, packed: bool) -> None:
    both = Both(RingFormat(packed=packed), 4)
    if isinstance(both.ring, SplitRing):
        both.ring.device_flags = NO_NOTIFICATION
    else:
        both.ring.device_event = (0, EVENT_DISABLE)
    both.driver.add([(both.put(b"x"), 1, 0)])
    assert not both.driver.kick_wanted()
    both.device = both.attach(None)
    both.driver.add([(both.put(b"y"), 1, 0)])
    assert both.driver.kick_wanted()


@every_format
def test_a_batch_is_seen_at_once_and_only_when_it_is_published(ring_format: RingFormat) -> None:
    both = Both(ring_format, 8)
    driver = driver_ring(both.ring, no_fence)
    at = both.put(b"abc")
    ids = [driver.offer([(at + place, 1, 0)]) for place in range(3)]
    assert both.device.pop() is None
    assert driver.publish()
    assert not driver.publish()
    chains = [both.pop() for _ in range(3)]
    assert [chain.head for chain in chains] == ids
    for chain in chains:
        both.device.push(chain, 0)
    assert driver.take() is None
    both.device.publish()
    assert [driver.take() for _ in range(3)] == [(id_, 0) for id_ in ids]
