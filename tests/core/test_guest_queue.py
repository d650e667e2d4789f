from __future__ import annotations

import pytest

from cvqd.core.queues.guest_queue import GuestQueue
from cvqd.errors import GuestError
from cvqd.wire.split_ring import DESC_INDIRECT, Descriptor
from kit.ring_memory import BASE, RingMemory, no_fence


def queue(memory: RingMemory, next_available: int = 0) -> GuestQueue:
    return GuestQueue(memory.ring, memory.space, no_fence, next_available)


def test_an_empty_ring_pops_nothing():
    assert queue(RingMemory()).pop() is None


def test_a_command_is_read_answered_and_given_back():
    memory = RingMemory()
    status = memory.command(b"hello")
    guest = queue(memory)
    chain = guest.pop()
    assert chain is not None
    assert chain.fault is None
    assert chain.read(100) == b"hello"
    assert chain.write(b"\0more") == 1
    guest.push(chain, 1)
    assert memory.ring.used_index == 0
    guest.publish()
    assert (memory.ring.used_index, memory.ring.used_element(0)) == (1, (0, 1))
    assert memory.byte(status) == 0
    assert guest.pop() is None


def test_any_split_of_the_bytes_over_descriptors_reads_the_same():
    memory = RingMemory()
    for index, byte in enumerate(b"\1\1abc"):
        memory.descriptor(index, memory.write(index, bytes([byte])), 1, following=index + 1)
    memory.descriptor(5, memory.write(9, b"\xff"), 1, write=True, following=6)
    memory.descriptor(6, memory.write(20, b"\xff\xff"), 2, write=True)
    memory.publish(0)
    chain = queue(memory).pop()
    assert chain is not None
    assert (chain.readable_length, chain.writable_length) == (5, 3)
    assert chain.read(3) == b"\1\1a"
    assert chain.write(b"xyz") == 3
    assert memory.bytes[0x8000 + 9] == ord("x")
    assert bytes(memory.bytes[0x8000 + 20 : 0x8000 + 22]) == b"yz"


def test_it_goes_on_where_it_is_told_and_where_the_used_ring_stands():
    memory = RingMemory(num=4)
    memory.ring.used_index = 0xFFFE
    memory._published = 0xFFFE
    guest = queue(memory, 0xFFFE)
    for round_ in range(6):
        memory.command(b"ok", head=2 * (round_ % 2))
        chain = guest.pop()
        assert chain is not None
        guest.push(chain, round_)
        guest.publish()
    assert memory.ring.used_index == 4
    assert guest.base == 4
    assert memory.ring.used_element(3)[1] == 5


def fault_of(memory: RingMemory) -> str:
    memory.publish(0)
    chain = queue(memory).pop()
    assert chain is not None
    assert chain.fault is not None
    return chain.fault.reason


def test_a_loop_is_found():
    memory = RingMemory()
    memory.descriptor(0, memory.write(0, b"a"), 1, following=1)
    memory.descriptor(1, memory.write(0, b"a"), 1, following=0)
    assert fault_of(memory) == "chain.loop"


def test_a_full_table_is_no_loop():
    memory = RingMemory(num=4)
    for index in range(4):
        memory.descriptor(index, memory.write(0, b"a"), 1, following=index + 1 if index < 3 else None)
    memory.publish(0)
    chain = queue(memory).pop()
    assert chain is not None
    assert chain.fault is None


def test_a_descriptor_outside_the_table_is_found():
    memory = RingMemory()
    memory.descriptor(0, memory.write(0, b"a"), 1, following=8)
    assert fault_of(memory) == "chain.next"


def test_an_empty_segment_is_found():
    memory = RingMemory()
    memory.descriptor(0, BASE, 0)
    assert fault_of(memory) == "chain.empty_segment"


def test_readable_behind_writable_is_found_and_the_writable_part_kept():
    memory = RingMemory()
    memory.descriptor(0, memory.write(0, b"a"), 1, write=True, following=1)
    memory.descriptor(1, memory.write(1, b"b"), 1)
    memory.publish(0)
    chain = queue(memory).pop()
    assert chain is not None
    assert chain.fault is not None
    assert chain.fault.reason == "chain.order"
    assert chain.write(b"\1") == 1


def test_an_indirect_table_is_refused_as_it_was_not_negotiated():
    memory = RingMemory()
    memory.ring.put_descriptor(0, Descriptor(BASE, 16, DESC_INDIRECT, 0))
    assert fault_of(memory) == "chain.indirect"


@pytest.mark.parametrize("address", [0, BASE - 1, BASE + (128 << 10), (1 << 64) - 1])
def test_memory_that_is_not_the_guests_is_found(address):
    memory = RingMemory()
    memory.descriptor(0, address, 2)
    assert fault_of(memory) == "memory.unmapped"


def test_a_segment_of_four_gigabytes_is_found():
    memory = RingMemory()
    memory.descriptor(0, BASE, 0xFFFFFFFF)
    assert fault_of(memory) == "memory.unmapped"


def test_an_index_that_jumps_breaks_the_queue():
    memory = RingMemory()
    memory.ring.available_index = 9
    with pytest.raises(GuestError, match=r"queue\.index"):
        queue(memory).pop()


def test_a_head_outside_the_table_breaks_the_queue():
    memory = RingMemory()
    memory.publish(8)
    with pytest.raises(GuestError, match=r"queue\.head"):
        queue(memory).pop()
