from __future__ import annotations

import multiprocessing
import os

import pytest

from cvqd.host import shared_memory
from cvqd.wire.split_ring import Descriptor, SplitRing, ring_sizes


def ring_over(memory: memoryview, num: int) -> SplitRing:
    descriptors, available, used = ring_sizes(num)
    return SplitRing(
        num,
        memory[:descriptors],
        memory[descriptors : descriptors + available],
        memory[0x2000 : 0x2000 + used],
    )


def test_fields_lie_where_the_specification_puts_them():
    memory = memoryview(bytearray(0x4000))
    ring = ring_over(memory, 4)
    ring.put_descriptor(1, Descriptor(0x1122334455667788, 0x99AABBCC, 3, 2))
    assert bytes(memory[16:32]).hex() == "8877665544332211ccbbaa9903000200"
    ring.put_available(5, 3)
    ring.available_index = 0x1FFFF
    assert bytes(memory[64:78]).hex() == "0000ffff00000300000000000000"
    ring.put_used(6, 0x01020304, 0x05060708)
    ring.used_index = 0x10002
    assert bytes(memory[0x2000:0x2004]).hex() == "00000200"
    assert bytes(memory[0x2014:0x201C]).hex() == "0403020108070605"
    assert ring.used_element(2) == (0x01020304, 0x05060708)
    assert (ring.available_index, ring.used_index) == (0xFFFF, 2)


@pytest.mark.parametrize("num", [0, 3, 65536])
def test_a_size_that_is_no_power_of_two_is_refused(num):
    with pytest.raises(ValueError, match="power of two"):
        SplitRing(num, memoryview(b""), memoryview(b""), memoryview(b""))


def test_windows_of_another_size_are_refused():
    with pytest.raises(ValueError, match="windows"):
        SplitRing(4, memoryview(bytearray(64)), memoryview(bytearray(14)), memoryview(bytearray(37)))


def _watch(fd: int, size: int, rounds: int, result: object) -> None:
    ring = ring_over(shared_memory.SharedMemory(fd, size).view, 256)
    seen = {ring.used_index for _ in range(rounds)}
    result.send(seen)


def test_another_process_never_sees_an_index_half_written_or_cleared():
    """The store that this depends on is CPython's; ``struct.pack_into`` fails this test in a second."""
    size = 0x4000
    fd = os.memfd_create("ring")
    os.ftruncate(fd, size)
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    ring = ring_over(shared_memory.SharedMemory(fd, size).view, 256)
    ring.used_index = 0x0101
    watcher = context.Process(target=_watch, args=(fd, size, 3_000_000, send))
    watcher.start()
    while watcher.is_alive() and not receive.poll():
        for _ in range(1000):
            ring.used_index = 0xFEFE
            ring.used_index = 0x0101
    seen = receive.recv()
    watcher.join()
    os.close(fd)
    send.close()
    receive.close()
    assert seen == {0x0101, 0xFEFE}
