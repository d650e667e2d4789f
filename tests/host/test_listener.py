"""Real sockets and real descriptors: messages come through whole or end the connection, and nothing leaks."""

from __future__ import annotations

import fcntl
import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from cvqd.errors import FrontendError, SocketError
from cvqd.host.listener import Listener
from cvqd.testing.frontend import FrontEnd
from cvqd.wire.vhost_user import HEADER, FrontRequest, encode_request
from kit.stream_peer import eventfds, no_leak, pair, send

if TYPE_CHECKING:
    from pathlib import Path

R = FrontRequest


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
