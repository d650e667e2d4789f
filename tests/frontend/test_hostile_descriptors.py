"""Front-ends whose descriptors are wrong or too many: nobody else is hurt, and none is left."""

from __future__ import annotations

import array
import gc
import os
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cvqd.testing.driver import GuestMemory
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.vhost_user import HEADER, PROTOCOL_FEATURES_SERVED, encode_request
from kit.broken_messages import REFUSED
from kit.hostile_frontend import Descriptors, R, next_is_served, refused, talking
from kit.rig import BROADCAST, MAC_A, Guest, Rig, frame, open_descriptors, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig.opened(tmp_path) as rig:
        yield rig


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Descriptors]:
    files = Descriptors(tmp_path)
    yield files
    files.close()


CALLS: dict[str, Callable[[Descriptors], int]] = {
    "the reading end of a pipe": Descriptors.pipe_reader,
    "a socket that is not connected": Descriptors.socket,
    "a datagram socket that is not connected": lambda files: files.socket(socket.SOCK_DGRAM),
    "a socket whose other end is gone": Descriptors.half_closed,
}


@pytest.mark.parametrize("maker", CALLS.values(), ids=list(CALLS))
async def test_a_call_that_cannot_be_signalled_hurts_nobody_else(
    rig: Rig, files: Descriptors, maker: Callable[[Descriptors], int]
) -> None:
    async with rig.guest("qemu") as guest:
        await guest.start()
        guest.driver.fill()
        for queue in guest.driver.queues:
            await guest.front_end.set_vring_call(queue.index, maker(files))
        guest.driver.send_frame(frame(BROADCAST))
        head = guest.driver.post_command(b"\x01\x01" + MAC_A)
        guest.control.notify()
        await settled()
        assert guest.control.poll() == (head, 1)
        assert guest.driver.received_frames() == [frame(BROADCAST)]
        await guest.front_end.get_features()
    await next_is_served(rig)


@pytest.mark.parametrize("maker", CALLS.values(), ids=list(CALLS))
async def test_a_channel_that_cannot_be_written_hurts_nobody_else(
    rig: Rig, files: Descriptors, maker: Callable[[Descriptors], int]
) -> None:
    async with rig.guest("qemu") as guest:
        await guest.front_end.request(R.SET_BACKEND_REQ_FD, b"", [maker(files)])
        await guest.start()
        for up in (False, True):
            rig.device.set_link(up=up)
            await settled()
        await guest.set_mac()
    await next_is_served(rig)


async def test_full_doorbells_do_not_stop_the_daemon(rig: Rig) -> None:
    """An eventfd that blocks and is full would hold whoever writes to it for ever."""
    full = (2**64 - 2).to_bytes(8, "little")
    async with rig.guest("qemu") as guest:
        for queue in guest.driver.queues:
            for fd in (queue.kick, queue.call):
                os.set_blocking(fd, True)
                os.write(fd, full)
        # nobody can kick any more, but this one is there when the device starts
        head = guest.driver.post_command(b"\x01\x01" + MAC_A)
        await guest.start()
        await settled()
        assert guest.control.poll() == (head, 1)
    await next_is_served(rig)


async def test_kicks_that_come_without_end_do_not_stop_the_daemon(rig: Rig) -> None:
    async with rig.guest("uml") as guest:
        await guest.start()
        for _ in range(1000):
            guest.control.notify()
        await guest.set_mac()
        assert not rig.log.of("cvq.chain.malformed")


async def test_hundreds_of_offenders_leave_no_descriptor_and_no_memory(rig: Rig, files: Descriptors) -> None:
    await next_is_served(rig)
    speeches = [speech for speech, _, _ in REFUSED.values()]
    descriptors = mapped = 0
    for turn in range(400):
        if turn == 100:
            gc.collect()
            descriptors, mapped = open_descriptors(), _mappings()
        async with talking(rig) as front_end:
            await speeches[turn % len(speeches)](front_end, files)
            await front_end.hung_up()
        files.close()
        files._open.clear()
        rig.log.events.clear()
    await settled()
    gc.collect()
    assert open_descriptors() == descriptors
    assert _mappings() == mapped
    await next_is_served(rig)


def _mappings() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:guest")


async def test_a_process_out_of_descriptors_refuses_and_recovers(rig: Rig, files: Descriptors) -> None:
    await next_is_served(rig)
    sent = [files.eventfd() for _ in range(8)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with talking(rig) as front_end:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(sent) + 3, hard))
        try:
            await front_end.send_raw(encode_request(999, bytes(8)), b"", sent)
            event = await refused(rig, front_end)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "than this process may open" in str(event["reason"])
    await next_is_served(rig)


async def test_a_front_end_that_leaves_in_the_middle_of_anything_is_cleaned_up(rig: Rig) -> None:
    """Cut the whole set-up of a guest at every message."""
    await next_is_served(rig)
    gc.collect()
    before = open_descriptors()
    steps = 0
    cut = 0
    while cut <= steps:
        async with await rig.connect() as front_end:
            with Guest(rig, front_end, "uml", memory=GuestMemory(1 << 20), num=64) as guest:
                sequence = [*_played(guest)]
                steps = len(sequence)
                for step in sequence[:cut]:
                    await front_end.request(
                        step.request, step.payload, step.descriptors, need_reply=step.need_reply
                    )
        await settled()
        assert not rig.backend.connected
        cut += 1
    del guest
    gc.collect()
    assert open_descriptors() == before
    assert not rig.log.of("frontend.refused")
    await next_is_served(rig)


def _played(guest: Guest) -> list[Any]:
    found = []
    for part in (guest.order.connect, guest.order.start):
        steps = part(guest.setup)
        reply: bytes | None = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration:
                break
            found.append(step)
            reply = (
                payloads.encode_u64(PROTOCOL_FEATURES_SERVED)
                if step.request is R.GET_PROTOCOL_FEATURES
                else None
            )
    return found


async def test_descriptors_that_come_with_the_payload_are_refused_and_closed(
    rig: Rig, files: Descriptors
) -> None:
    async with await rig.connect() as front_end:
        await settled()
        fd = files.eventfd()
        before = open_descriptors()
        await front_end.send_raw(HEADER.pack(R.SET_FEATURES, 1, 8))
        await settled()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]).tobytes())]
        await front_end._stream.sendmsg([bytes(8)], rights)
        event = await refused(rig, front_end)
        assert event["request"] == "SET_FEATURES"
        assert "came with the payload" in str(event["reason"])
        assert open_descriptors() < before
    await next_is_served(rig)
