"""The shipped guest driver against the shipped device side of a ring."""

from __future__ import annotations

import os

import pytest
import trio

from cvqd.core.address_space import AddressSpace
from cvqd.core.queues.guest_queue import Chain, GuestQueue
from cvqd.host.doorbell import ring
from cvqd.host.shared_memory import fence
from cvqd.testing.driver import DriverQueue, GuestMemory, Segment
from cvqd.testing.net_driver import NET_HEADER_SIZE, UNANSWERED, NetDriver
from cvqd.wire.split_ring import DESC_NEXT, Descriptor, SplitRing, ring_sizes
from cvqd.wire.vhost_user import DescriptorKind


def device_side(queue: DriverQueue) -> GuestQueue:
    memory = AddressSpace()
    memory.add(queue.memory.guest_address, queue.memory.view(queue.memory.guest_address, queue.memory.size))
    return GuestQueue(
        SplitRing(queue.num, *map(queue.memory.view, queue.addresses, ring_sizes(queue.num))), memory, fence
    )


def pop(queue: GuestQueue) -> Chain:
    chain = queue.pop()
    assert chain is not None
    return chain


def give_back(queue: GuestQueue, chain: Chain, written: int) -> None:
    queue.push(chain, written)
    queue.publish()


def test_the_front_ends_addresses_are_not_the_guests():
    with GuestMemory(mmap_offset=0x3000) as memory, NetDriver(memory, num=16) as driver:
        setup = driver.setup(0)
        ((region, fd),) = setup.memory
        assert region.guest_address != region.user_address
        assert os.fstat(fd).st_size == region.mmap_offset + region.size
        for queue, handed in zip(driver.queues, setup.rings, strict=True):
            offsets = {ours - theirs for ours, theirs in zip(handed.addresses, queue.addresses, strict=True)}
            assert offsets == {region.user_address - region.guest_address}


def test_the_file_is_where_the_guest_writes():
    with GuestMemory(mmap_offset=0x3000) as memory:
        address = memory.allocate(6)
        memory.write(address, b"cookie")
        assert os.pread(memory.fileno(), 6, 0x3000 + address - memory.guest_address) == b"cookie"
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(memory.fileno(), 0)
        with pytest.raises(IndexError):
            memory.view(memory.guest_address + memory.size - 1, 2)
        with pytest.raises(MemoryError):
            memory.allocate(memory.size)


def test_commands_are_laid_out_as_linux_does_and_many_may_be_under_way():
    with GuestMemory() as memory, NetDriver(memory, num=16) as driver:
        assert driver.control is not None
        device = device_side(driver.control)
        commands = [bytes((4, 0, n, 0)) for n in range(5)]
        heads = [driver.post_command(command) for command in commands]
        chains = [pop(device) for _ in commands]
        for n, (command, chain) in enumerate(zip(commands, chains, strict=True)):
            assert [len(part) for part in chain.readable] == [2, 2]
            assert chain.read(100) == command
            assert chain.writable_length == 1
            assert bytes(chain.writable[0]) == bytes((UNANSWERED,))
            chain.write(bytes((n,)))
            give_back(device, chain, 1)
        for n, head in enumerate(heads):
            used = driver.control.poll()
            assert used is not None
            assert used.head == head
            assert driver.take_ack(head) == n
        assert driver.control.poll() is None


def test_descriptors_run_out_and_come_back_for_ever():
    with GuestMemory() as memory:
        queue = DriverQueue(memory, 0, 4)
        device = device_side(queue)
        address = memory.allocate(8)
        for _ in range(40_000):
            queue.add([Segment(address, 4), Segment(address + 4, 4, writable=True)])
            give_back(device, pop(device), 0)
            assert queue.poll() is not None
        queue.add([Segment(address, 1)] * 4)
        with pytest.raises(IndexError, match="0 descriptors are free"):
            queue.add([Segment(address, 1)])
        queue.close()


def test_raw_descriptors_reach_the_device_unchecked():
    with GuestMemory() as memory:
        queue = DriverQueue(memory, 0, 4)
        queue.add_raw(0, [(0, Descriptor(0xDEAD_0000, 8, DESC_NEXT, 0))])
        chain = pop(device_side(queue))
        assert chain.fault is not None
        queue.close()


@pytest.mark.parametrize("kind", [DescriptorKind.EVENTFD, DescriptorKind.SOCKET, DescriptorKind.PIPE])
async def test_a_command_waits_for_the_call_whatever_the_call_is(kind: DescriptorKind):
    with GuestMemory() as memory, NetDriver(memory, num=16, call_kind=kind) as driver:
        control = driver.control
        assert control is not None
        device = device_side(control)

        async def serve() -> None:
            for n in range(3):
                await trio.lowlevel.wait_readable(control.kick)
                os.eventfd_read(control.kick)
                ring(control.call)  # one that announces nothing
                await trio.testing.wait_all_tasks_blocked()
                chain = pop(device)
                chain.write(bytes((n,)))
                give_back(device, chain, 1)
                ring(control.call)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            assert [await driver.command(b"\4\0\1\0") for _ in range(3)] == [0, 1, 2]


def test_a_command_that_spins_gives_up():
    with GuestMemory() as memory, NetDriver(memory, num=16) as driver, pytest.raises(TimeoutError):
        driver.command_spin(b"\0\0\1", timeout=0.01)


def test_frames_lose_their_headers_and_buffers_are_used_again():
    with GuestMemory(1 << 20) as memory, NetDriver(memory, num=16) as driver:
        driver.fill(buffers=8)
        transmit, receive = device_side(driver.transmit[0]), device_side(driver.receive[0])
        for n in range(2000):
            frame = n.to_bytes(2, "big") * 30
            driver.send_frame(frame)
            sent, room = pop(transmit), pop(receive)
            assert sent.read(NET_HEADER_SIZE) == bytes(NET_HEADER_SIZE)
            give_back(receive, room, room.write(sent.read(4096)))
            give_back(transmit, sent, 0)
            assert driver.received_frames() == [frame]
        assert driver.received_frames() == []
