"""Front-ends that break the protocol: the connection ends with a reason, the next one is served.

Every case runs against the real listener and back-end; most of them twice, on
a fresh connection and on one whose guest runs.
"""

from __future__ import annotations

import array
import gc
import os
import resource
import socket
import struct
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from cvqd.simulator.spec import SimulatorSpec
from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd, FrontEndError
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_user import (
    HEADER,
    MAX_PAYLOAD,
    PROTOCOL_FEATURES_SERVED,
    FrontRequest,
    encode_request,
)
from cvqd.wire.vhost_user_payloads import RegionDescription
from cvqd.wire.vhost_vdpa import IovaRange
from cvqd.wire.virtio import Feature
from rig import BROADCAST, MAC_A, MAC_B, Guest, Rig, frame, open_descriptors, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

R = FrontRequest
BIT_30 = Feature.PROTOCOL_FEATURES.mask


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig.opened(tmp_path) as rig:
        yield rig


@asynccontextmanager
async def talking(rig: Rig, *, without: int = 0) -> AsyncIterator[FrontEnd]:
    """A connection with every protocol feature negotiated."""
    async with await rig.connect() as front_end:
        await front_end.get_features()
        await front_end.set_protocol_features(PROTOCOL_FEATURES_SERVED & ~without)
        yield front_end


async def refused(rig: Rig, front_end: FrontEnd) -> dict[str, Any]:
    """What was said when the connection ended."""
    with trio.fail_after(5):
        await front_end.hung_up()
    await settled()
    (event,) = rig.log.of("frontend.refused")
    assert rig.log.of("frontend.disconnected")[-1]["reason"] == f"{event['request']}: {event['reason']}"
    assert not rig.backend.connected
    assert not rig.owner.running
    assert not len(rig.owner.memory.space)
    assert not rig.owner.current.mappings.mapped(0)
    return event


async def next_is_served(rig: Rig) -> None:
    """Fully: commands, data, a stop."""
    async with rig.guest("uml") as guest:
        await guest.start()
        await guest.set_mac(MAC_B)
        guest.driver.fill()
        assert await guest.echo(frame(BROADCAST))
        await guest.stop()


class Descriptors:
    """Files of every kind; closed together."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: list[int] = []

    def _keep(self, *fds: int) -> int:
        self._open += fds
        return fds[0]

    def eventfd(self) -> int:
        return self._keep(os.eventfd(0, os.EFD_CLOEXEC))

    def memory(self, size: int) -> int:
        fd = self._keep(os.memfd_create("guest", os.MFD_CLOEXEC))
        os.ftruncate(fd, size)
        return fd

    def pipe_reader(self) -> int:
        return self._keep(*os.pipe2(os.O_CLOEXEC))

    def pipe_writer(self) -> int:
        return self._keep(*reversed(os.pipe2(os.O_CLOEXEC)))

    def socket(self, kind: int = socket.SOCK_STREAM) -> int:
        return self._keep(socket.socket(socket.AF_UNIX, kind).detach())

    def half_closed(self) -> int:
        ours, theirs = socket.socketpair()
        theirs.close()
        return self._keep(ours.detach())

    def directory(self) -> int:
        return self._keep(os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC))

    def zero(self) -> int:
        return self._keep(os.open("/dev/zero", os.O_RDWR | os.O_CLOEXEC))

    def read_only(self, size: int) -> int:
        path = self._directory / "memory"
        path.write_bytes(bytes(size))
        return self._keep(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def close(self) -> None:
        for fd in self._open:
            os.close(fd)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Descriptors]:
    files = Descriptors(tmp_path)
    yield files
    files.close()


# bytes that are no message

RAW = {
    "half a header": (HEADER.pack(1, 1, 0)[:7], "header", "truncated: 7 of 12"),
    "one byte": (b"\x01", "header", "truncated: 1 of 12"),
    "half a payload": (HEADER.pack(R.SET_FEATURES, 1, 8) + bytes(3), "SET_FEATURES", "truncated: 3 of 8"),
    "a payload that never comes": (HEADER.pack(R.SET_MEM_TABLE, 1, 4096), "SET_MEM_TABLE", "truncated: 0"),
    "a size above the limit": (HEADER.pack(R.SET_FEATURES, 1, MAX_PAYLOAD + 1), "SET_FEATURES", "above the"),
    "the field's largest size": (
        HEADER.pack(R.SET_FEATURES, 1, 2**32 - 1),
        "SET_FEATURES",
        "above the limit",
    ),
    "the largest size of an unknown request": (
        HEADER.pack(77, 1, 2**32 - 1),
        "REQUEST_77",
        "above the limit",
    ),
    "version 0": (HEADER.pack(R.GET_FEATURES, 0, 0), "GET_FEATURES", "flags 0x0"),
    "version 2": (HEADER.pack(R.GET_FEATURES, 2, 0), "GET_FEATURES", "flags 0x2"),
    "a reply": (HEADER.pack(R.GET_FEATURES, 5, 0), "GET_FEATURES", "flags 0x5"),
    "all flags": (HEADER.pack(R.GET_FEATURES, 2**32 - 1, 0), "GET_FEATURES", "flags 0xffffffff"),
    "text": (b"GET / HTTP/1.1\r\n\r\n", "REQUEST_542393671", "flags"),
}


@pytest.mark.parametrize(("data", "request_name", "reason"), RAW.values(), ids=list(RAW))
async def test_bytes_that_are_no_message_end_the_connection(
    rig: Rig, data: bytes, request_name: str, reason: str
) -> None:
    await next_is_served(rig)
    before = open_descriptors()
    async with await rig.connect() as front_end:
        await front_end.send_raw(data)
        front_end._stream.shutdown(socket.SHUT_WR)
        event = await refused(rig, front_end)
    assert event["request"] == request_name
    assert reason in event["reason"]
    assert open_descriptors() == before
    await next_is_served(rig)


async def test_a_peer_that_says_nothing_and_leaves_is_no_offender(rig: Rig) -> None:
    async with await rig.connect():
        await settled()
    await settled()
    assert not rig.log.of("frontend.refused")
    assert rig.log.of("frontend.disconnected")
    await next_is_served(rig)


async def test_a_peer_that_never_reads_its_replies_stops_only_itself(rig: Rig) -> None:
    async with await rig.connect() as front_end:
        question = encode_request(R.GET_FEATURES)
        front_end._stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        with trio.move_on_after(0.2):
            while True:
                await front_end.send_raw(question * 100)
    await settled()
    await next_is_served(rig)


# descriptors


def send(
    request: FrontRequest,
    payload: bytes = b"",
    *makers: Callable[[Descriptors], int],
    need_reply: bool = False,
) -> Callable[[FrontEnd, Descriptors], Awaitable[None]]:
    async def speak(front_end: FrontEnd, files: Descriptors) -> None:
        data = encode_request(request, payload, need_reply=need_reply)
        await front_end.send_raw(data, b"", [make(files) for make in makers])

    return speak


def state(index: int, num: int) -> bytes:
    return payloads.VringState(index, num).encode()


def ring_fd(index: int, *, present: bool = True) -> bytes:
    return payloads.VringDescriptor(index, present).encode()


def table(*regions: tuple[int, int, int, int]) -> bytes:
    return payloads.encode_memory_table(tuple(RegionDescription(*region) for region in regions))


def single(*region: int) -> bytes:
    return RegionDescription(*region).encode_single()


def megabyte(files: Descriptors) -> int:
    return files.memory(1 << 20)


M = 1 << 20
E, P = Descriptors.eventfd, Descriptors.pipe_reader

REFUSED: dict[str, tuple[Callable[[FrontEnd, Descriptors], Awaitable[None]], str, str]] = {
    # wrong numbers of descriptors
    "a descriptor with a plain question": (
        send(R.GET_FEATURES, b"", E),
        "GET_FEATURES",
        "1 descriptors, 0 to 0",
    ),
    "two kicks": (send(R.SET_VRING_KICK, ring_fd(0), E, E), "SET_VRING_KICK", "2 descriptors, 0 to 1"),
    "a kick that is not there": (send(R.SET_VRING_KICK, ring_fd(0)), "SET_VRING_KICK", "the payload says 1"),
    "a kick that should not be": (
        send(R.SET_VRING_KICK, ring_fd(0, present=False), E),
        "SET_VRING_KICK",
        "the payload says 0",
    ),
    "a ring to be polled": (send(R.SET_VRING_KICK, ring_fd(0, present=False)), "SET_VRING_KICK", "polled"),
    "a table without descriptors": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0))),
        "SET_MEM_TABLE",
        "0 descriptors for 1",
    ),
    "a table with one too many": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0)), megabyte, megabyte),
        "SET_MEM_TABLE",
        "2 descriptors for 1",
    ),
    "64 descriptors": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0)), *[E] * 64),
        "SET_MEM_TABLE",
        "64 descriptors for 1",
    ),
    "more descriptors than a message may carry": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0)), *[E] * 65),
        "header",
        "more descriptors than 64",
    ),
    "a region without its file": (send(R.ADD_MEM_REG, single(0, M, 0, 0)), "ADD_MEM_REG", "0 descriptors"),
    "a channel without a descriptor": (send(R.SET_BACKEND_REQ_FD), "SET_BACKEND_REQ_FD", "0 descriptors"),
    # wrong kinds of descriptors
    "a kick that is a pipe": (send(R.SET_VRING_KICK, ring_fd(0), P), "SET_VRING_KICK", "eventfd, not a pipe"),
    "a kick that is a socket": (
        send(R.SET_VRING_KICK, ring_fd(0), Descriptors.socket),
        "SET_VRING_KICK",
        "eventfd, not a socket",
    ),
    "a kick that is memory": (send(R.SET_VRING_KICK, ring_fd(0), megabyte), "SET_VRING_KICK", "not a file"),
    "a call that is memory": (send(R.SET_VRING_CALL, ring_fd(0), megabyte), "SET_VRING_CALL", "not a file"),
    "a call that is a directory": (
        send(R.SET_VRING_CALL, ring_fd(0), Descriptors.directory),
        "SET_VRING_CALL",
        "not a other",
    ),
    "a channel that is an eventfd": (
        send(R.SET_BACKEND_REQ_FD, b"", E),
        "SET_BACKEND_REQ_FD",
        "a socket or a pipe",
    ),
    # memory
    "an empty region": (send(R.ADD_MEM_REG, single(0, 0, 0, 0), megabyte), "ADD_MEM_REG", "no bytes"),
    "guest addresses that wrap": (
        send(R.ADD_MEM_REG, single(2**64 - 4096, 2 * 4096, 0, 0), megabyte),
        "ADD_MEM_REG",
        "guest addresses of region",
    ),
    "user addresses that wrap": (
        send(R.ADD_MEM_REG, single(0, M, 2**64 - 4096, 0), megabyte),
        "ADD_MEM_REG",
        "user addresses of region",
    ),
    "an offset that wraps": (
        send(R.ADD_MEM_REG, single(0, M, 0, 2**64 - 4096), megabyte),
        "ADD_MEM_REG",
        "file offsets of region",
    ),
    "regions that overlap": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0), (M - 4096, M, 8 * M, 0)), megabyte, megabyte),
        "SET_MEM_TABLE",
        "regions at guest addresses 0x0 and 0xff000 overlap",
    ),
    "regions that overlap for the front-end": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0), (8 * M, M, M - 1, 0)), megabyte, megabyte),
        "SET_MEM_TABLE",
        "user addresses 0x0 and 0xfffff overlap",
    ),
    "the same region twice": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0), (0, M, 0, 0)), megabyte, megabyte),
        "SET_MEM_TABLE",
        "overlap",
    ),
    "a table above eight regions": (
        send(R.SET_MEM_TABLE, table(*((i * M, M, i * M, 0) for i in range(33))), *[megabyte] * 33),
        "SET_MEM_TABLE",
        "33 regions, at most 32",
    ),
    "a table that claims 2^32-1 regions": (
        send(R.SET_MEM_TABLE, struct.pack("=II", 2**32 - 1, 0)),
        "SET_MEM_TABLE",
        "more than one message can carry",
    ),
    "a table cut short": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0), (M, M, M, 0))[:-1], megabyte, megabyte),
        "SET_MEM_TABLE",
        "71 bytes, 72 are needed",
    ),
    "a file shorter than its region": (
        send(R.ADD_MEM_REG, single(0, M + 1, 0, 0), megabyte),
        "ADD_MEM_REG",
        "memory file has 1048576 bytes",
    ),
    "a file shorter than region and offset": (
        send(R.ADD_MEM_REG, single(0, M, 0, 4096), megabyte),
        "ADD_MEM_REG",
        "memory file has 1048576 bytes",
    ),
    "a file far shorter than its region": (
        send(R.ADD_MEM_REG, single(2**63, 2**63, 2**63, 0), megabyte),
        "ADD_MEM_REG",
        "memory file has 1048576 bytes",
    ),
    "memory larger than any address space": (
        send(R.ADD_MEM_REG, single(2**62, 2**60, 2**62, 0), lambda files: files.memory(2**60)),
        "ADD_MEM_REG",
        "cannot be mapped",
    ),
    "memory that is an eventfd": (send(R.ADD_MEM_REG, single(0, M, 0, 0), E), "ADD_MEM_REG", "has 0 bytes"),
    "memory that is a directory": (
        send(R.ADD_MEM_REG, single(0, 1, 0, 0), Descriptors.directory),
        "ADD_MEM_REG",
        "cannot be mapped",
    ),
    "memory that is a character device": (
        send(R.ADD_MEM_REG, single(0, M, 0, 0), Descriptors.zero),
        "ADD_MEM_REG",
        "has 0 bytes",
    ),
    "memory that may only be read": (
        send(R.ADD_MEM_REG, single(0, M, 0, 0), lambda files: files.read_only(M)),
        "ADD_MEM_REG",
        "cannot be mapped",
    ),
    "a region that was never added": (
        send(R.REM_MEM_REG, single(0, M, 0, 0)),
        "REM_MEM_REG",
        "no such region",
    ),
    # rings
    "a ring of 0": (send(R.SET_VRING_NUM, state(0, 0)), "SET_VRING_NUM", "size 0"),
    "a ring of 3": (send(R.SET_VRING_NUM, state(0, 3)), "SET_VRING_NUM", "not a power of two"),
    "a ring of 65536": (send(R.SET_VRING_NUM, state(0, 65536)), "SET_VRING_NUM", "maximum of 256"),
    "a ring of 2^31": (send(R.SET_VRING_NUM, state(0, 2**31)), "SET_VRING_NUM", "maximum of 256"),
    "a ring that is not there": (send(R.SET_VRING_NUM, state(5, 256)), "SET_VRING_NUM", "no ring 5"),
    "a ring far away": (send(R.GET_VRING_BASE, state(2**32 - 1, 0)), "GET_VRING_BASE", "no ring 4294967295"),
    "a kick for ring 255": (send(R.SET_VRING_KICK, ring_fd(255), E), "SET_VRING_KICK", "no ring 255"),
    "half enabled": (send(R.SET_VRING_ENABLE, state(0, 2)), "SET_VRING_ENABLE", "neither 0 nor 1"),
    # the rest
    "features nobody offered": (
        send(R.SET_FEATURES, payloads.encode_u64(BIT_30 | Feature.SR_IOV.mask)),
        "SET_FEATURES",
        "not offered: SR_IOV",
    ),
    "ACCESS_PLATFORM": (
        send(R.SET_FEATURES, payloads.encode_u64(Feature.ACCESS_PLATFORM.mask)),
        "SET_FEATURES",
        "not offered: ACCESS_PLATFORM",
    ),
    "all features": (send(R.SET_FEATURES, payloads.encode_u64(2**64 - 1)), "SET_FEATURES", "not offered"),
    "all protocol features": (
        send(R.SET_PROTOCOL_FEATURES, payloads.encode_u64(2**64 - 1)),
        "SET_PROTOCOL_FEATURES",
        "not offered",
    ),
    "a status of nine bits": (send(R.SET_STATUS, payloads.encode_u64(0x100)), "SET_STATUS", "no byte"),
    "an MTU cut short": (send(R.NET_SET_MTU, bytes(7)), "NET_SET_MTU", "was not negotiated"),
    "a number cut short": (send(R.SET_FEATURES, bytes(7)), "SET_FEATURES", "7 bytes, 8 are needed"),
    "configuration of no bytes": (
        send(R.GET_CONFIG, struct.pack("=III", 0, 0, 0)),
        "GET_CONFIG",
        "0 bytes of configuration",
    ),
    "configuration of 2^32-1 bytes": (
        send(R.GET_CONFIG, struct.pack("=III", 0, 2**32 - 1, 0)),
        "GET_CONFIG",
        "4294967295 bytes of configuration",
    ),
    "configuration that lies about its length": (
        send(R.GET_CONFIG, struct.pack("=III", 0, 8, 0) + bytes(4)),
        "GET_CONFIG",
        "16 bytes, 20 are needed",
    ),
    "postcopy": (send(R.POSTCOPY_ADVISE), "POSTCOPY_ADVISE", "not offered and cannot be answered"),
    "an IOTLB message": (send(R.IOTLB_MSG, bytes(32)), "IOTLB_MSG", "not offered"),
    "in-flight memory": (send(R.GET_INFLIGHT_FD, bytes(24)), "GET_INFLIGHT_FD", "not offered"),
}


@pytest.mark.parametrize("running", [False, True], ids=["fresh", "running"])
@pytest.mark.parametrize(("speech", "request_name", "reason"), REFUSED.values(), ids=list(REFUSED))
async def test_a_message_that_breaks_the_protocol_ends_the_connection(
    rig: Rig, files: Descriptors, speech: Any, request_name: str, reason: str, *, running: bool
) -> None:
    await next_is_served(rig)
    before = open_descriptors()
    with GuestMemory() as memory:
        async with await rig.connect() as front_end:
            with Guest(rig, front_end, "qemu", memory=memory) as guest:
                await front_end.play(guest.order.connect(guest.setup))
                if running:
                    await guest.start()
                    await guest.set_mac(MAC_A)
                await speech(front_end, files)
                event = await refused(rig, front_end)
    assert event["request"] == request_name
    assert reason in str(event["reason"])
    files.close()
    files._open.clear()
    # the memory object's own mapping is still here
    assert open_descriptors() <= before + 1
    await next_is_served(rig)


@pytest.mark.parametrize(
    "request_",
    [R.GET_QUEUE_NUM, R.GET_CONFIG, R.SET_CONFIG, R.RESET_DEVICE, R.GET_STATUS, R.SET_STATUS, R.ADD_MEM_REG],
)
async def test_a_request_whose_feature_was_not_negotiated_ends_the_connection(
    rig: Rig, request_: FrontRequest
) -> None:
    async with await rig.connect() as front_end:
        await front_end.send_raw(encode_request(request_, bytes(40)))
        event = await refused(rig, front_end)
    assert event["request"] == request_.name
    assert "was not negotiated" in str(event["reason"])
    await next_is_served(rig)


# answered, not ended


@pytest.mark.parametrize("number", [0, 45, 999, 2**32 - 1, R.SET_LOG_BASE, R.SEND_RARP, R.SET_VRING_ENDIAN])
@pytest.mark.parametrize("size", [0, 8, MAX_PAYLOAD])
async def test_an_unknown_request_is_skipped_and_answered_only_if_it_asks(
    rig: Rig, number: int, size: int
) -> None:
    async with talking(rig) as front_end:
        await front_end.send_raw(encode_request(number, bytes(size)))
        await front_end.get_features()
        await front_end.send_raw(encode_request(number, bytes(size), need_reply=True))
        assert payloads.decode_u64("ack", await front_end.receive_reply(number)) != 0
        await front_end.get_features()
    assert not rig.log.of("frontend.refused")


async def test_an_unknown_requests_descriptors_are_closed(rig: Rig, files: Descriptors) -> None:
    async with talking(rig) as front_end:
        sent = [files.eventfd() for _ in range(10)]
        # what a test before this one left to the collector is not to be found missing
        gc.collect()
        before = open_descriptors()
        await front_end.send_raw(encode_request(999, bytes(8)), b"", sent)
        await front_end.get_features()
        assert open_descriptors() == before


@pytest.mark.parametrize(("offset", "size"), [(0, 25), (24, 1), (23, 2), (2**32 - 1, 1), (2**32 - 256, 256)])
async def test_configuration_outside_the_space_is_answered_with_nothing(
    rig: Rig, offset: int, size: int
) -> None:
    async with talking(rig) as front_end:
        with pytest.raises(FrontEndError, match="GET_CONFIG was refused"):
            await front_end.get_config(offset, size)
        assert len(await front_end.get_config(0, 24)) == 24


async def test_configuration_cannot_be_written(rig: Rig) -> None:
    async with talking(rig) as front_end:
        before = await front_end.get_config(0, 24)
        with pytest.raises(FrontEndError, match="SET_CONFIG was refused"):
            await front_end.set_config(0, MAC_A)
        assert await front_end.get_config(0, 24) == before


async def test_features_that_change_under_a_running_device_are_refused(rig: Rig) -> None:
    async with rig.guest("qemu") as guest:
        await guest.start()
        with pytest.raises(FrontEndError, match="SET_FEATURES was refused"):
            await guest.front_end.set_features(BIT_30 | Feature.VERSION_1.mask, need_reply=True)
        await guest.set_mac()


# rings outside memory


def addresses(guest: Guest, **parts: int) -> bytes:
    own = RingAddresses(*map(guest.memory.user_address, guest.control.addresses))
    return payloads.VringAddress(guest.control.index, 0, own._replace(**parts)).encode()


OUTSIDE: dict[str, Callable[[Guest], dict[str, int]]] = {
    "null": lambda _: {"descriptors": 0},
    "guest addresses for user addresses": lambda guest: {"available": guest.control.addresses.available},
    "behind memory": lambda guest: {
        "used": guest.memory.description.user_address + guest.memory.size,
    },
    "over the end of memory": lambda guest: {
        "descriptors": guest.memory.description.user_address + guest.memory.size - 16,
    },
    "over the end of addresses": lambda _: {"used": 2**64 - 4},
    "askew": lambda guest: {"descriptors": guest.memory.description.user_address + 8},
}


async def start_with(guest: Guest, address: bytes) -> None:
    """As the front-end starts, but for the control queue's address."""
    steps = guest.order.start(guest.setup)
    reply: bytes | None = None
    while True:
        try:
            step = steps.send(reply)
        except StopIteration:
            break
        wrong = step.request is R.SET_VRING_ADDR and step.payload[0] == guest.control.index
        reply = await guest.front_end.request(
            step.request, address if wrong else step.payload, step.descriptors, need_reply=step.need_reply
        )
    await guest.front_end.get_features()


@pytest.mark.parametrize("order", ["qemu", "uml", "crosvm", "qemu-enabled-first"])
@pytest.mark.parametrize("case", OUTSIDE.values(), ids=list(OUTSIDE))
async def test_a_ring_outside_memory_is_named_when_it_should_run(
    rig: Rig, order: str, case: Callable[[Guest], dict[str, int]]
) -> None:
    name = order.removesuffix("-enabled-first")
    async with await rig.connect() as front_end:
        with Guest(rig, front_end, name) as guest:
            await front_end.play(guest.order.connect(guest.setup))
            if name != order:
                for queue in guest.driver.queues:
                    await front_end.set_vring_enable(queue.index, enable=True)
            with pytest.raises(FrontEndError, match="hung up"):
                await start_with(guest, addresses(guest, **case(guest)))
            event = await refused(rig, front_end)
    assert event["request"] == "SET_VRING_ADDR"
    assert "does not lie in one region" in str(event["reason"]) or "aligned" in str(event["reason"])
    await next_is_served(rig)


async def test_a_base_that_no_split_ring_has_is_named(rig: Rig) -> None:
    async with rig.guest("qemu") as guest:
        await guest.start()
        await send(R.SET_VRING_BASE, state(0, 65536))(guest.front_end, Descriptors(Path()))
        event = await refused(rig, guest.front_end)
        assert event["request"] == "SET_VRING_BASE"
        assert "is above 0xffff" in str(event["reason"])
    await next_is_served(rig)


# memory the device will not take


async def test_a_region_outside_the_devices_addresses_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    spec = SimulatorSpec(max_queue_pairs=2, iova_range=IovaRange(0, 2**40 - 1))
    async with Rig.opened(tmp_path, spec) as rig:
        await next_is_served(rig)
        with GuestMemory() as good, GuestMemory(1 << 20, 2**40 - 4096, 1 << 30) as bad:
            for _ in range(2):
                async with talking(rig) as front_end:
                    table = [(good.description, good.fileno()), (bad.description, bad.fileno())]
                    with pytest.raises(FrontEndError, match="hung up"):
                        await front_end.set_mem_table(table)
                    event = await refused(rig, front_end)
                    assert event["request"] == "SET_MEM_TABLE"
                    assert "0xfffffff000" in str(event["reason"])
                rig.log.events.clear()
        await next_is_served(rig)


async def test_a_mapping_that_the_device_refuses_halfway_leaves_nothing(rig: Rig) -> None:
    """As when the kernel may not pin more memory: some of a batch is there, and the batch is open."""
    await next_is_served(rig)
    device_map = rig.device.net.iotlb._map

    def refuse_second(asid: int, request: Any) -> None:
        if request.iova == 0x5000_0000:
            raise ValueError("no more memory can be locked")
        device_map(asid, request)

    rig.device.net.iotlb._map = refuse_second  # type: ignore[method-assign]
    with GuestMemory() as one, GuestMemory(1 << 20, 0x5000_0000, 1 << 30) as two:
        async with talking(rig) as front_end:
            with pytest.raises(FrontEndError, match="hung up"):
                await front_end.set_mem_table(
                    [(one.description, one.fileno()), (two.description, two.fileno())]
                )
            await settled()
            (failed,) = rig.log.of("device.failed")
            assert failed["call"] == "VHOST_IOTLB_UPDATE"
            assert not rig.owner.current.mappings.mapped(0)
            assert not rig.device.net.iotlb._spaces[0].recorded.extents
    # the guest's address is free again
    await next_is_served(rig)


# descriptors that cannot be signalled


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


# leaks


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


async def test_without_reply_ack_a_refused_setter_ends_the_connection(rig: Rig) -> None:
    async with rig.guest("crosvm") as guest:
        await guest.start()
        await guest.front_end.set_features(BIT_30 | Feature.VERSION_1.mask)
        event = await refused(rig, guest.front_end)
        assert event["request"] == "SET_FEATURES"
    await next_is_served(rig)
