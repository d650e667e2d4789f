"""A process that is killed while it answers on a packed ring, and the one that goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvqd.core.address_space import AddressSpace
from cvqd.core.queues.guest_queue import GuestQueue
from cvqd.core.queues.packed_answers import Answered, PackedAnswers, resume
from cvqd.core.queues.packed_driver_ring import PackedDriverRing
from cvqd.wire.packed_ring import INITIAL_BASE, PackedBase, PackedDescriptor, PackedRing, packed_sizes
from cvqd.wire.split_ring import DESC_WRITE
from cvqd.wire.vhost_vdpa import Access
from kit.ring_memory import no_fence

NUM = 8
DATA = 0x10000


class Killed(BaseException):
    """The process ends here."""


class Ring(PackedRing):
    """Ends the process before the ``left``-th store of the device."""

    left = 1 << 30

    def put_flags(self, position: int, flags: int) -> None:
        self.store()
        super().put_flags(position, flags)

    def put_used(self, position: int, id_: int, written: int) -> None:
        self.store()
        super().put_used(position, id_, written)

    def store(self) -> None:
        if not self.left:
            raise Killed
        self.left -= 1


class Machine:
    """A driver's end that lives on, and a device's that is killed and comes back."""

    def __init__(self) -> None:
        windows = [memoryview(bytearray(size)) for size in packed_sizes(NUM)]
        self.ring = Ring(NUM, *windows)
        self.driver = PackedDriverRing(PackedRing(NUM, *windows), no_fence, event_index=False)
        self.memory = memoryview(bytearray(4096))
        self.space = AddressSpace()
        self.space.add(DATA, self.memory, Access.READ_WRITE)
        self.noted: list[PackedAnswers] = []
        self.device = self.come_up(INITIAL_BASE)
        self.sent = 0
        self.waiting: list[int] = []

    def come_up(self, base: int) -> GuestQueue:
        return GuestQueue(self.ring, self.space, no_fence, base, note=self.noted.append)

    def send(self, parts: int) -> None:
        at = DATA + 64 * (self.sent % 32)
        self.sent += 1
        readable = [(at + 8 * part, 8, 0) for part in range(parts)]
        self.waiting.append(self.driver.offer([*readable, (at + 56, 1, DESC_WRITE)]))
        self.driver.publish()

    def serve(self) -> int:
        """Answer everything; how many there were."""
        chains = []
        while (chain := self.device.pop()) is not None:
            assert chain.fault is None
            assert chain.readable_length == 8 * len(chain.readable)
            chains.append(chain)
        for chain in chains:
            self.device.push(chain, chain.write(b"\0"))
        if chains:
            self.device.publish()
        return len(chains)

    def take(self) -> None:
        """All answers that the driver sees; they come in turn, each once."""
        while (returned := self.driver.take()) is not None:
            assert returned == (self.waiting.pop(0), 1)


@given(
    st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=2), min_size=1, max_size=8),
    st.lists(st.integers(0, 14), max_size=4),
)
def test_killed_before_any_store_nothing_is_answered_twice_and_nothing_never(batches, kills):
    machine = Machine()
    kills = iter(kills)
    for batch in batches:
        for parts in batch:
            machine.send(parts)
        machine.ring.left = next(kills, 1 << 30)
        try:
            machine.serve()
        except Killed:
            machine.ring.left = 1 << 30
            base = resume(machine.ring, machine.noted[-1]) if machine.noted else INITIAL_BASE
            assert base is not None
            # its front-end knows nothing of where the ring stands
            machine.device = machine.come_up(base)
            machine.serve()
        machine.take()
        assert not machine.waiting


def answers(place: int = 0, *, wrap: bool = True, descriptors: int = 2) -> PackedAnswers:
    head = PackedDescriptor(DATA, 8, 3, 0x80)
    return PackedAnswers(NUM, place, wrap, (Answered(head, descriptors, 3, 1),))


def test_notes_come_back_as_they_went():
    assert PackedAnswers.decode(answers(5, wrap=False).encode()) == answers(5, wrap=False)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_note_or_none(data: bytes):
    found = PackedAnswers.decode(data)
    if found is not None:
        assert found.encode()[6:] == data[6:]
        resume(Machine().ring, found)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        answers().encode()[:-1],
        answers(8).encode(),
        answers(descriptors=0).encode(),
        answers(descriptors=9).encode(),
    ],
)
def test_what_cannot_have_been_noted_is_none(data: bytes):
    assert PackedAnswers.decode(data) is None


@pytest.mark.parametrize("served", [1, 2, 3, 4, 5])
def test_a_ring_that_its_driver_filled_behind_the_answers_goes_on_behind_them(served: int):
    machine = Machine()
    for _ in range(served):
        machine.send(2)
        assert machine.serve() == 1
        machine.take()
    # over the place of the last answer too
    for _ in range(NUM // 2):
        machine.send(1)
    assert not machine.driver.free
    base = resume(machine.ring, machine.noted[-1])
    assert base is not None
    machine.device = machine.come_up(base)
    assert machine.serve() == NUM // 2
    machine.take()
    assert not machine.waiting


def test_a_driver_that_starts_over_shows_no_sign_of_the_answers():
    served = Machine()
    for _ in range(3):
        served.send(1)
        served.serve()
        served.take()
    last = served.noted[-1]
    assert resume(served.ring, last) == PackedBase(6, True, 6, True).encode()  # noqa: FBT003
    fresh = Machine()
    assert resume(fresh.ring, last) is None
    fresh.send(1)
    assert resume(fresh.ring, last) is None


def test_a_driver_that_starts_over_in_the_same_memory_keeps_what_it_wrote():
    """The first buffer of a ring may lie where the first one of its predecessor lay."""
    served = Machine()
    served.send(1)
    served.serve()
    fresh = Machine()
    fresh.send(2)
    before = fresh.ring.descriptor(0)
    assert resume(fresh.ring, served.noted[0]) == INITIAL_BASE
    assert fresh.ring.descriptor(0) == before
    assert fresh.serve() == 1
