"""Real sockets and real descriptors: messages come through whole or end the connection, and nothing leaks."""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from cvqd.core.session import Session
from cvqd.core.session_effects import ReadConfig, RingStopped
from cvqd.core.session_offer import Offer
from cvqd.errors import FrontendError, SocketError
from cvqd.host.backend_channel import send_config_change
from cvqd.host.descriptor import OwnedFd
from cvqd.host.listener import Connection, Listener
from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd, FrontEndError
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.vhost_user import (
    HEADER,
    PROTOCOL_FEATURES_SERVED,
    BackRequest,
    DescriptorKind,
    FrontRequest,
    encode_request,
)
from cvqd.wire.virtio import Feature, mask_of

if TYPE_CHECKING:
    from collections.abc import Iterator

R = FrontRequest
FEATURES = mask_of(Feature.VERSION_1, Feature.MAC, Feature.CTRL_VQ)
OFFER = Offer(features=FEATURES, rings=3, ring_size=256)


def open_descriptors() -> dict[str, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = str(entry.readlink())
        except FileNotFoundError:
            continue  # the one that lists the directory
    return found


@contextmanager
def no_leak() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


def pair() -> tuple[Connection, socket.socket]:
    ours, theirs = socket.socketpair()
    return Connection(ours), theirs


def send(peer: socket.socket, data: bytes, *fds: int) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
    assert peer.sendmsg([data], ancillary) == len(data)


@contextmanager
def eventfds(count: int) -> Iterator[list[int]]:
    fds = [os.eventfd(0) for _ in range(count)]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


# descriptors


def test_a_descriptors_kind_and_identity_are_known(tmp_path: Path):
    left, right = socket.socketpair()
    read, write = os.pipe()
    (tmp_path / "file").touch()
    numbers = {
        DescriptorKind.EVENTFD: os.eventfd(0),
        DescriptorKind.SOCKET: left.detach(),
        DescriptorKind.PIPE: write,
        DescriptorKind.FILE: os.memfd_create("x"),
        DescriptorKind.OTHER: os.open("/dev/null", os.O_RDONLY),
    }
    epoll = select.epoll()
    for kind, number in numbers.items():
        again = OwnedFd(os.dup(number))
        owned = OwnedFd(number)
        assert (owned.kind, owned.fileno()) == (kind, number)
        assert owned.identity == again.identity == (os.fstat(number).st_dev, os.fstat(number).st_ino)
        again.close()
        owned.close()
    assert OwnedFd(os.dup(epoll.fileno())).kind is DescriptorKind.OTHER
    epoll.close()
    right.close()
    os.close(read)


def test_a_descriptor_is_closed_once_and_remembers_who_it_was():
    owned = OwnedFd(os.memfd_create("x"))
    number, identity = owned.fileno(), owned.identity
    owned.close()
    taken = os.open("/dev/null", os.O_RDONLY)
    assert taken == number, "the number is in use again"
    owned.close()
    os.fstat(taken)
    os.close(taken)
    assert owned.identity == identity
    with pytest.raises(ValueError, match="closed"):
        owned.fileno()


# messages


async def test_a_message_comes_with_its_descriptors_and_they_are_not_inherited():
    connection, peer = pair()
    with no_leak(), eventfds(2) as fds:
        send(peer, encode_request(R.SET_MEM_TABLE, b"payload!", need_reply=True), *fds)
        message = await connection.receive()
        assert message is not None
        assert (message.name, message.payload, message.need_reply) == ("SET_MEM_TABLE", b"payload!", True)
        for sent, got in zip(fds, message.descriptors, strict=True):
            os.eventfd_write(sent, 7)
            assert os.eventfd_read(got.fileno()) == 7
            assert fcntl.fcntl(got.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        message.close()
    connection.close()
    peer.close()


async def test_messages_written_together_are_read_apart_with_their_own_descriptors():
    connection, peer = pair()
    with no_leak(), eventfds(1) as fds:
        send(peer, encode_request(R.SET_OWNER) + encode_request(R.SET_FEATURES, bytes(8)))
        send(peer, encode_request(R.SET_VRING_KICK, bytes(8)), *fds)
        send(peer, encode_request(R.GET_FEATURES))
        counts = []
        for _ in range(4):
            message = await connection.receive()
            assert message is not None
            counts.append((message.name, len(message.descriptors)))
            message.close()
        assert counts == [("SET_OWNER", 0), ("SET_FEATURES", 0), ("SET_VRING_KICK", 1), ("GET_FEATURES", 0)]
    connection.close()
    peer.close()


async def test_a_message_may_come_byte_by_byte():
    connection, peer = pair()
    data = encode_request(R.SET_VRING_CALL, bytes(range(8)))

    async def drip(fd: int) -> None:
        send(peer, data[:1], fd)
        for at in range(1, len(data)):
            await trio.testing.wait_all_tasks_blocked()
            send(peer, data[at : at + 1])

    with no_leak(), eventfds(1) as fds:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, fds[0])
            message = await connection.receive()
        assert message is not None
        assert message.payload == bytes(range(8))
        assert len(message.descriptors) == 1
        message.close()
    connection.close()
    peer.close()


async def test_the_end_between_messages_is_no_error():
    connection, peer = pair()
    send(peer, encode_request(R.SET_OWNER))
    peer.close()
    assert await connection.receive() is not None
    assert await connection.receive() is None
    connection.close()


async def test_a_front_end_that_leaves_a_reply_unread_has_simply_ended():
    connection, peer = pair()
    await connection.send(b"unread")
    peer.close()
    assert await connection.receive() is None
    with pytest.raises(FrontendError, match="the front-end is gone"):
        await connection.send(b"to nobody")
    connection.close()


HOSTILE = {
    "truncated header": (b"\1\0\0\0\1\0", 0, "header: truncated: 6 of 12"),
    "truncated header with a descriptor": (b"\1", 1, "header: truncated: 1 of 12"),
    "truncated payload": (HEADER.pack(R.SET_FEATURES, 1, 8) + b"123", 0, "SET_FEATURES: truncated: 3 of 8"),
    "truncated payload with descriptors": (HEADER.pack(R.SET_MEM_TABLE, 1, 72), 3, "truncated: 0 of 72"),
    "one byte too large": (HEADER.pack(R.SET_MEM_TABLE, 1, 4097), 1, "above the limit"),
    "as large as can be said": (
        HEADER.pack(R.SET_MEM_TABLE, 1, 0xFFFF_FFFF),
        1,
        "payload of 4294967295 bytes",
    ),
    "version 2": (HEADER.pack(R.GET_FEATURES, 2, 0), 1, "flags 0x2"),
    "a reply": (HEADER.pack(R.GET_FEATURES, 5, 0), 1, "flags 0x5"),
    "too many descriptors": (HEADER.pack(R.SET_MEM_TABLE, 1, 0), 100, "more descriptors than 64"),
    "one descriptor too many": (HEADER.pack(R.SET_MEM_TABLE, 1, 0), 65, "more descriptors than 64"),
}


@pytest.mark.parametrize(("data", "count", "reason"), HOSTILE.values(), ids=HOSTILE)
async def test_what_is_no_message_is_blamed_and_leaks_nothing(data: bytes, count: int, reason: str):
    with no_leak():
        connection, peer = pair()
        with eventfds(count) as fds:
            send(peer, data, *fds)
        peer.close()
        with pytest.raises(FrontendError, match=reason):
            await connection.receive()
        connection.close()


async def test_as_many_descriptors_as_allowed_come_through():
    with no_leak():
        connection, peer = pair()
        with eventfds(64) as fds:
            send(peer, HEADER.pack(R.SET_MEM_TABLE, 1, 0), *fds)
        message = await connection.receive()
        assert message is not None
        assert len(message.descriptors) == 64
        message.close()
        connection.close()
        peer.close()


async def test_descriptors_that_come_with_the_payload_are_refused():
    with no_leak():
        connection, peer = pair()
        with eventfds(2) as fds:
            send(peer, HEADER.pack(R.SET_VRING_KICK, 1, 8), fds[0])
            send(peer, bytes(8), fds[1])
        with pytest.raises(FrontendError, match="came with the payload"):
            await connection.receive()
        connection.close()
        peer.close()


async def test_cancelling_in_the_middle_of_a_message_leaks_nothing():
    with no_leak():
        connection, peer = pair()
        with eventfds(1) as fds:
            send(peer, HEADER.pack(R.SET_VRING_KICK, 1, 8), *fds)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.receive)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        connection.close()
        peer.close()


async def test_an_unread_message_is_pending_until_it_is_read():
    connection, peer = pair()
    assert not connection.pending()
    send(peer, encode_request(R.SET_OWNER) + encode_request(R.SET_OWNER))
    assert connection.pending()
    await connection.receive()
    assert connection.pending()
    await connection.receive()
    assert not connection.pending()
    peer.close()
    assert connection.pending(), "the end is news as well"
    connection.close()


# listening


def listening(path: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    bound.listen(4)
    return bound


async def test_the_next_front_end_waits_until_the_first_has_gone(tmp_path: Path):
    listener = Listener(listening(tmp_path / "sock"))
    first = await FrontEnd.connect(str(tmp_path / "sock"))
    second = await FrontEnd.connect(str(tmp_path / "sock"))
    await second.send_raw(encode_request(R.SET_OWNER))
    one = await listener.accept()
    assert one is not None
    async with one, first:
        first.close()
        assert await one.receive() is None
    two = await listener.accept()
    assert two is not None
    async with two, second:
        message = await two.receive()
        assert message is not None
        assert message.name == "SET_OWNER"
    listener.close()


async def test_an_inherited_listening_socket_is_listened_on(tmp_path: Path):
    fd = listening(tmp_path / "sock").detach()
    listener = Listener.from_descriptor(fd)
    assert not os.get_inheritable(fd)
    async with await FrontEnd.connect(str(tmp_path / "sock")):
        connection = await listener.accept()
        assert connection is not None
        connection.close()
    listener.close()


async def test_an_inherited_connection_is_the_only_one():
    ours, theirs = socket.socketpair()
    listener = Listener.from_descriptor(ours.detach())
    send(theirs, encode_request(R.SET_OWNER))
    connection = await listener.accept()
    assert connection is not None
    async with connection:
        assert await connection.receive() is not None
    assert await listener.accept() is None
    theirs.close()


def test_an_inherited_descriptor_of_another_kind_is_refused():
    cases = {
        "no Unix stream socket": socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach(),
        "neither listening nor connected": socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).detach(),
    }
    for reason, fd in cases.items():
        with pytest.raises(SocketError, match=f"fd {fd}: is {reason}") as caught:
            Listener.from_descriptor(fd)
        assert caught.value.exit_code == 73
    with eventfds(1) as fds, pytest.raises(SocketError, match="non-socket"):
        Listener.from_descriptor(fds[0])


# the back-end channel


def full(fd: int) -> None:
    os.set_blocking(fd, False)
    while True:
        try:
            os.write(fd, bytes(4096))
        except BlockingIOError:
            return


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_config_change_is_written_whole_and_never_blocks(kind: str):
    if kind == "pipe":
        read, write = os.pipe()
    else:
        read, write = (end.detach() for end in socket.socketpair())
    channel = OwnedFd(write)
    assert send_config_change(channel)
    assert os.read(read, 100) == HEADER.pack(BackRequest.CONFIG_CHANGE_MSG, 1, 0)
    full(write)
    os.set_blocking(write, True)
    assert not send_config_change(channel)
    os.close(read)
    assert not send_config_change(channel)
    channel.close()


# front-end, connection and session together


async def serve(connection: Connection, session: Session, ended: list[str]) -> None:
    """What the daemon's glue does, with a device that is content with everything."""
    async with connection:
        try:
            while (message := await connection.receive()) is not None:
                effect = session.receive(message)
                result: int | bytes | None = None
                if isinstance(effect, ReadConfig):
                    result = bytes(range(effect.size))
                if isinstance(effect, RingStopped):
                    result = 3
                reply = session.reply(message, result)
                if reply is not None:
                    await connection.send(reply)
            ended.append("end")
        except FrontendError as error:
            ended.append(str(error))
        finally:
            session.close()


@pytest.mark.parametrize("name", ORDERS)
async def test_each_order_plays_over_a_socket_and_leaves_no_descriptor(name: str):
    kind = DescriptorKind.SOCKET if name == "uml" else DescriptorKind.EVENTFD
    ended: list[str] = []
    with GuestMemory() as memory:
        before = open_descriptors()
        with NetDriver(memory, 1, 64, call_kind=kind) as driver:
            ours, theirs = socket.socketpair()
            session = Session(OFFER)
            setup = driver.setup(FEATURES)._replace(channel=driver.queues[0].call if name == "uml" else None)
            async with trio.open_nursery() as nursery, FrontEnd(theirs) as front_end:
                nursery.start_soon(serve, Connection(ours), session, ended)
                for steps in ORDERS[name]:
                    await front_end.play(steps(setup))
                    await front_end.get_features()  # a barrier, for those who wait for nothing
                    if steps is ORDERS[name].start:
                        assert session.ring_complete(0)
                        assert session.guest_ring(1) == driver.queues[1].addresses
                        assert session.memory[0].descriptor.identity.inode == os.fstat(memory.fileno()).st_ino
        assert ended == ["end"]
        assert open_descriptors() == before


async def test_the_front_ends_methods_say_what_they_mean():
    ours, theirs = socket.socketpair()
    session = Session(OFFER)
    ended: list[str] = []
    with GuestMemory() as memory, NetDriver(memory, 1, 64) as driver:
        async with trio.open_nursery() as nursery, FrontEnd(theirs) as fe:
            nursery.start_soon(serve, Connection(ours), session, ended)
            assert await fe.get_features() == FEATURES | Feature.PROTOCOL_FEATURES.mask
            assert await fe.get_protocol_features() == PROTOCOL_FEATURES_SERVED
            await fe.set_protocol_features(PROTOCOL_FEATURES_SERVED)
            await fe.set_owner()
            assert (await fe.get_queue_num(), await fe.get_max_mem_slots()) == (3, 32)
            await fe.set_features(FEATURES | Feature.PROTOCOL_FEATURES.mask)
            await fe.set_mem_table([(memory.description, memory.fileno())])
            await fe.rem_mem_reg(memory.description)
            assert session.memory == ()
            await fe.add_mem_reg(memory.description, memory.fileno())
            ring = driver.queues[2].setup()
            await fe.set_vring_num(2, ring.num)
            await fe.set_vring_base(2, 0)
            await fe.set_vring_addr(2, ring.addresses)
            await fe.set_vring_kick(2, ring.kick)
            await fe.set_vring_call(2, ring.call)
            await fe.set_vring_err(2, None)
            await fe.set_vring_enable(2, enable=True)
            assert session.ring_complete(2)
            assert session.rings[2].enabled
            assert session.guest_ring(2) == driver.queues[2].addresses
            assert await fe.get_config(0, 6) == bytes(range(6))
            await fe.set_config(0, b"abc")
            await fe.set_status(15)
            assert await fe.get_status() == 15
            await fe.reset_device()
            assert not session.rings[2].enabled
            assert await fe.get_vring_base(2) == 3
            for pipe in (True, False):
                await fe.open_channel(pipe=pipe)
                assert session.backend_channel is not None
                assert send_config_change(session.backend_channel)
                assert await fe.backend_request() is BackRequest.CONFIG_CHANGE_MSG
    assert ended == ["end"]


def _table(*regions: payloads.RegionDescription) -> bytes:
    return encode_request(R.SET_MEM_TABLE, payloads.encode_memory_table(regions))


_LOW = payloads.RegionDescription(0, 0x1000, 0x7000_0000, 0)
_WRAPS = payloads.RegionDescription((1 << 64) - 0x1000, 0x2000, 0x7000_0000, 0)

BAD_MESSAGES = {
    "descriptor too few": (_table(_LOW), 0, "SET_MEM_TABLE: 0 descriptors for 1 regions"),
    "descriptor too many": (_table(_LOW), 2, "SET_MEM_TABLE: 2 descriptors for 1 regions"),
    "overlap": (_table(_LOW, _LOW), 2, "overlap"),
    "wrap": (_table(_WRAPS), 1, "wrap around"),
    "nine regions": (
        _table(*(payloads.RegionDescription(at << 20, 1, at << 20, 0) for at in range(9))),
        9,
        "9 regions, at most 8",
    ),
    "a count as large as can be said": (
        encode_request(R.SET_MEM_TABLE, b"\xff\xff\xff\xff" + bytes(36)),
        1,
        "4294967295 regions",
    ),
    "features with a descriptor": (encode_request(R.SET_FEATURES, bytes(8)), 1, "1 descriptors, 0 to 0"),
    "kick without one": (encode_request(R.SET_VRING_KICK, bytes(8)), 0, "0 descriptors, the payload says 1"),
    "kick of ring 255": (encode_request(R.SET_VRING_KICK, b"\xff" + bytes(7)), 1, "there is no ring 255"),
    "short payload": (encode_request(R.SET_VRING_CALL, bytes(7)), 1, "payload of 7 bytes, 8 are needed"),
    "inflight buffer": (encode_request(R.GET_INFLIGHT_FD, bytes(24)), 1, "was not offered"),
    "device state": (encode_request(R.SET_DEVICE_STATE_FD, bytes(8)), 1, "DEVICE_STATE was not negotiated"),
}


@pytest.mark.parametrize(("data", "count", "reason"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
async def test_a_bad_message_ends_the_connection_with_a_reason_and_leaks_nothing(
    data: bytes, count: int, reason: str
):
    before = open_descriptors()
    ours, theirs = socket.socketpair()
    ended: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, Connection(ours), Session(OFFER), ended)
        async with FrontEnd(theirs) as front_end:
            with eventfds(count) as fds:
                await front_end.send_raw(data, b"", fds)
            assert await front_end.hung_up() == b""
            with pytest.raises(FrontEndError):
                await front_end.get_features()
    assert len(ended) == 1
    assert reason in ended[0]
    assert open_descriptors() == before
