"""The shadow queue with the shipped device side (``GuestQueue``) at its other end."""

from __future__ import annotations

import pytest

from cvqd.core.address_space import AddressSpace
from cvqd.core.queues.guest_queue import Chain, GuestQueue
from cvqd.core.queues.shadow_queue import PAGE, ShadowLayout, ShadowQueue
from cvqd.wire.split_ring import SplitRing, ring_sizes
from cvqd.wire.vhost_vdpa import Access
from kit.ring_memory import no_fence

IOVA = 0x7000_0000


class Pair:
    """A shadow queue and a device that sees the memory only through two mappings, as it would."""

    def __init__(self, num: int = 8, max_command: int = 100) -> None:
        self.layout = layout = ShadowLayout(num, max_command)
        self.memory = memoryview(bytearray(b"\xaa" * layout.size))
        self.shadow = ShadowQueue(layout, self.memory, IOVA, no_fence)
        space = AddressSpace()
        space.add(IOVA, self.memory[: layout.readable], Access.READ)
        space.add(IOVA + layout.readable, self.memory[layout.readable :], Access.READ_WRITE)
        parts = zip(layout.addresses(IOVA), ring_sizes(num), strict=True)
        self.ring = SplitRing(num, *(space.contiguous(at, size, Access.READ) for at, size in parts))
        self.device = GuestQueue(self.ring, space, no_fence)

    def take(self) -> Chain:
        chain = self.device.pop()
        assert chain is not None
        assert chain.fault is None
        return chain

    def give(self, chain: Chain, ack: bytes = b"\0", written: int | None = None) -> None:
        chain.write(ack)
        self.device.push(chain, len(ack) if written is None else written)
        self.device.publish()


def test_both_parts_are_whole_pages_and_nothing_overlaps():
    for num, max_command in [(2, 1), (8, 100), (128, 65536), (256, 256)]:
        layout = ShadowLayout(num, max_command)
        assert layout.readable % PAGE == layout.size % PAGE == 0
        assert layout.commands >= sum(ring_sizes(num)[:2])
        assert layout.commands + layout.slots * layout.short_command <= layout.long_commands
        assert layout.long_commands + layout.long_buffers * max_command <= layout.readable
        assert max_command == layout.short_command or layout.long_buffers
        assert layout.readable + ring_sizes(num).used <= layout.answers < layout.size


def test_a_command_reaches_the_device_and_its_answer_comes_back():
    pair = Pair()
    pair.shadow.submit(7, b"command", deadline=5)
    assert pair.device.pop() is None, "not visible before it is published"
    assert pair.shadow.publish()
    assert not pair.shadow.publish(), "one kick is enough"
    chain = pair.take()
    assert chain.read(100) == b"command"
    assert pair.shadow.reap() == []
    pair.give(chain, b"\1")
    assert pair.shadow.reap() == [(7, 1, False, b"")]
    assert pair.shadow.take_faults() == []


def test_every_command_in_flight_has_buffers_of_its_own():
    pair = Pair(num=8)
    for token in range(4):
        pair.shadow.submit(token, bytes([token]) * 100, deadline=1)
    assert not pair.shadow.takes(1)
    pair.shadow.publish()
    chains = [pair.take() for _ in range(4)]
    for token in (2, 0, 3, 1):
        assert chains[token].read(200) == bytes([token]) * 100
        pair.give(chains[token], bytes([token]))
    assert [answer[:2] for answer in pair.shadow.reap()] == [(2, 2), (0, 0), (3, 3), (1, 1)]
    assert pair.shadow.takes(1)


def test_long_commands_share_few_buffers_and_wait_for_them():
    pair = Pair(num=16, max_command=4096)
    for token in range(4):
        assert pair.shadow.takes(4096)
        pair.shadow.submit(token, bytes([token]) * 4096, deadline=1)
    assert not pair.shadow.takes(513)
    assert pair.shadow.takes(512)
    pair.shadow.submit(4, b"s" * 512, deadline=1)
    pair.shadow.publish()
    chains = [pair.take() for _ in range(5)]
    assert [chain.read(5000) for chain in chains] == [*(bytes([n]) * 4096 for n in range(4)), b"s" * 512]
    pair.shadow.expire(1)
    assert not pair.shadow.takes(513), "a quarantined buffer is not used again"
    pair.give(chains[2])
    assert [answer.token for answer in pair.shadow.reap()] == [2]
    pair.shadow.submit(5, b"n" * 4096, deadline=2)
    pair.shadow.publish()
    assert pair.take().read(5000) == b"n" * 4096
    assert [chains[n].read(5000) for n in (0, 1, 3)] == [bytes([n]) * 4096 for n in (0, 1, 3)]
    assert not pair.shadow.takes(513)


def test_indices_wrap():
    pair = Pair(num=2)
    for token in range(70_000):
        pair.shadow.submit(token, b"x", deadline=1)
        pair.shadow.publish()
        pair.give(pair.take())
        assert pair.shadow.reap() == [(token, 0, False, b"")]


def test_an_expired_command_keeps_its_slot_until_the_device_gives_it_back():
    pair = Pair(num=4)
    pair.shadow.submit(1, b"slow", deadline=10)
    pair.shadow.submit(2, b"quick", deadline=11)
    pair.shadow.publish()
    slow, quick = pair.take(), pair.take()
    assert pair.shadow.deadline == 10
    assert pair.shadow.expire(9.9) == []
    assert pair.shadow.expire(10) == [1]
    assert pair.shadow.expire(10) == [], "once"
    assert (pair.shadow.deadline, pair.shadow.quarantined, pair.shadow.in_flight) == (11, 1, 1)
    pair.give(quick)
    assert pair.shadow.reap() == [(2, 0, False, b"")]
    pair.shadow.submit(3, b"next", deadline=20)
    assert not pair.shadow.takes(1), "the quarantined slot is not used again"
    pair.shadow.publish()
    assert slow.read(10) == b"slow", "its buffer is untouched"
    pair.give(slow)
    assert pair.shadow.reap() == [(1, 0, True, b"")]
    assert pair.shadow.quarantined == 0


def faults(pair: Pair) -> list[str]:
    return [reason for reason, _ in pair.shadow.take_faults()]


def test_an_id_that_comes_twice_is_a_fault_and_answers_nothing():
    pair = Pair()
    pair.shadow.submit(1, b"x", deadline=1)
    pair.shadow.publish()
    chain = pair.take()
    pair.give(chain)
    pair.give(chain)
    assert pair.shadow.reap() == [(1, 0, False, b"")]
    assert faults(pair) == ["used.id"]


def test_an_id_that_comes_twice_later_does_not_answer_the_next_command():
    pair = Pair()
    pair.shadow.submit(1, b"x", deadline=1)
    pair.shadow.publish()
    chain = pair.take()
    pair.give(chain)
    pair.shadow.reap()
    pair.shadow.submit(2, b"y", deadline=1)
    pair.shadow.publish()
    pair.give(chain)
    assert pair.shadow.reap() == []
    assert faults(pair) == ["used.id"]
    pair.give(pair.take())
    assert pair.shadow.reap() == [(2, 0, False, b"")]


@pytest.mark.parametrize("head", [1, 2, 6, 8, 0xFFFF_FFFF])
def test_an_id_that_is_not_in_flight_is_a_fault(head):
    pair = Pair()
    pair.shadow.submit(1, b"x", deadline=1)
    pair.shadow.publish()
    pair.ring.put_used(0, head, 1)
    pair.ring.used_index = 1
    assert pair.shadow.reap() == []
    assert faults(pair) == ["used.id"]
    assert pair.shadow.expire(1) == [1]


@pytest.mark.parametrize(
    ("ack", "written", "fault"),
    [
        (b"", 0, "used.length"),
        (b"\0", 0, "used.length"),
        (b"\0", 0xFFFF_FFF2, "used.length"),
        (b"", 1, "used.no_ack"),
    ],
)
def test_a_command_given_back_without_a_status_has_none(ack, written, fault):
    pair = Pair()
    pair.shadow.submit(1, b"x", deadline=1)
    pair.shadow.publish()
    pair.give(pair.take(), ack, written)
    assert pair.shadow.reap() == [(1, None, False, b"")]
    assert faults(pair) == [fault]
    assert pair.shadow.takes(1)


def test_a_used_index_that_jumps_breaks_the_queue_for_good():
    pair = Pair(num=4)
    pair.shadow.submit(1, b"x", deadline=1)
    pair.ring.used_index = 5
    assert pair.shadow.reap() == []
    assert faults(pair) == ["used.index"]
    assert pair.shadow.broken
    assert not pair.shadow.takes(1)
    assert pair.shadow.expire(1) == [1], "what was in flight still ends"


def test_a_result_comes_back_behind_its_ack_and_no_longer_than_it_was_asked_for():
    pair = Pair(num=2)
    for answer, given in [(9, b"\0" + bytes(range(8))), (5, b"\0abc"), (1, b"\1")]:
        pair.shadow.submit(1, b"ask", deadline=1, answer=answer)
        pair.shadow.publish()
        chain = pair.take()
        assert chain.writable_length == answer
        pair.give(chain, given)
        assert pair.shadow.reap() == [(1, given[0], False, given[1:])]
    pair.shadow.submit(2, b"x", deadline=1)
    pair.shadow.publish()
    pair.give(pair.take(), b"\0", written=2)
    assert pair.shadow.reap() == [(2, None, False, b"")], "a byte that was not the device's to write"
    assert faults(pair) == ["used.length"]
