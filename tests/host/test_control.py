from __future__ import annotations

import json
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from cvqd.client.control import ControlError, ask
from cvqd.errors import DeviceError
from cvqd.host import control, unix_listener
from cvqd.host.feed import CAPACITY, Feed
from cvqd.testing.events import EventRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Served:
    def __init__(self, path: str) -> None:
        self.path = path
        self.log = EventRecorder()
        self.gate = trio.Event()
        self.feed = Feed()

    async def connect(self) -> trio.SocketStream:
        return await trio.open_unix_socket(self.path)

    async def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """As the command line asks: from another thread, since it blocks."""
        return await trio.to_thread.run_sync(lambda: ask(self.path, request, **arguments))


@asynccontextmanager
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    made = Served(str(tmp_path / "vm0.control"))

    async def status(request: dict[str, Any]) -> dict[str, Any]:
        return {"schema": 1, "asked": request}

    async def large(_: dict[str, Any]) -> dict[str, Any]:
        return {"text": "x" * 2_000_000}

    async def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise DeviceError("VHOST_VDPA_SUSPEND", 5)

    async def broken(_: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("oops")

    async def slow(_: dict[str, Any]) -> dict[str, Any]:
        await made.gate.wait()
        return {}

    handlers = {"status": status, "large": large, "refuse": refuse, "broken": broken, "slow": slow}
    streams = {"follow": control.Stream(status, made.feed), "closed": control.Stream(refuse, made.feed)}
    with unix_listener.bind(made.path, 0o600) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(control.serve, listener, handlers, made.log, streams)
            yield made
            nursery.cancel_scope.cancel()


async def exchange(stream: trio.SocketStream, data: bytes) -> list[dict[str, Any]]:
    """Send, half-close, read to the end."""
    await stream.send_all(data)
    await stream.send_eof()
    received = b""
    async for chunk in stream:
        received += chunk
    return [json.loads(line) for line in received.splitlines()]


async def test_a_request_reaches_its_handler_with_its_arguments(tmp_path: Path):
    async with served(tmp_path) as server:
        answer = await server.ask("status", deep=True)
        assert answer == {"schema": 1, "asked": {"request": "status", "deep": True}}


async def test_a_large_answer_arrives_whole(tmp_path: Path):
    async with served(tmp_path) as server:
        assert len((await server.ask("large"))["text"]) == 2_000_000


async def test_one_connection_may_ask_many_times(tmp_path: Path):
    async with served(tmp_path) as server, await server.connect() as stream:
        answers = await exchange(
            stream, b'{"request": "status"}\n{"request": "refuse"}\n{"request": "status"}\n'
        )
        assert [sorted(answer) for answer in answers] == [
            ["asked", "schema"],
            ["error", "exit_code"],
            ["asked", "schema"],
        ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"request": "nothing"}', "unknown request"),
        (b"{}", "unknown request"),
        (b'{"request": ["status"]}', "unknown request"),
        (b'["status"]', "unknown request"),
        (b"hello", "not a line of JSON"),
        (b"", "not a line of JSON"),
        (b"\xff\xfe", "not a line of JSON"),
        (b"[" * 50_000, "not a line of JSON"),
        (b'{"request": "status", "more": [' + b"[]," * 400_000 + b"[]]}", "unknown request"),
    ],
)
async def test_what_is_no_request_is_told_so_and_the_next_is_served(tmp_path: Path, line: bytes, reason: str):
    async with served(tmp_path) as server, await server.connect() as stream:
        first, second = await exchange(stream, line + b'\n{"request": "status"}\n')
        assert first["error"].startswith(reason)
        assert second["schema"] == 1


async def test_a_blamed_error_is_the_answer(tmp_path: Path):
    async with served(tmp_path) as server:
        with pytest.raises(ControlError, match="VHOST_VDPA_SUSPEND: EIO") as caught:
            await server.ask("refuse")
        assert caught.value.exit_code == 71, "the error's own"
        assert server.log.events == []


async def test_a_bug_in_a_handler_costs_an_answer_and_not_the_daemon(tmp_path: Path):
    async with served(tmp_path) as server:
        with pytest.raises(ControlError, match="internal error: KeyError"):
            await server.ask("broken")
        assert server.log.of("control.failed") == [{"reason": "broken: KeyError('oops')"}]
        assert (await server.ask("status"))["schema"] == 1


async def test_a_slow_request_holds_nobody_else(tmp_path: Path):
    async with served(tmp_path) as server, await server.connect() as stream:
        await stream.send_all(b'{"request": "slow"}\n')
        assert (await server.ask("status"))["schema"] == 1
        server.gate.set()
        assert await stream.receive_some() == b"{}\n"


async def lines_of(stream: trio.SocketStream, count: int) -> list[Any]:
    """The next lines of a stream."""
    received = b""
    while received.count(b"\n") < count:
        received += await stream.receive_some()
    return [json.loads(line) for line in received.splitlines()]


async def test_a_stream_is_an_answer_and_then_lines_as_they_come(tmp_path: Path):
    async with served(tmp_path) as server, await server.connect() as stream:
        await stream.send_all(b'{"request": "follow"}\n')
        assert await lines_of(stream, 1) == [{"schema": 1, "asked": {"request": "follow"}}]
        server.feed.publish(b"1\n")
        server.feed.publish(b"2\n")
        assert await lines_of(stream, 2) == [1, 2]
        await stream.send_eof()
        assert await stream.receive_some() == b""
        assert not server.feed.followed


async def test_a_stream_may_be_refused_and_the_connection_ends(tmp_path: Path):
    async with served(tmp_path) as server, await server.connect() as stream:
        (answer,) = await exchange(stream, b'{"request": "closed"}\n')
        assert answer["error"] == "VHOST_VDPA_SUSPEND: EIO"
        assert not server.feed.followed


@pytest.mark.parametrize("abrupt", [True, False])
async def test_a_follower_that_vanishes_is_forgotten(tmp_path: Path, *, abrupt: bool):
    async with served(tmp_path) as server:
        stream = await server.connect()
        await stream.send_all(b'{"request": "follow"}\n')
        await lines_of(stream, 1)
        if abrupt:
            # unread data makes the close a reset, unix(7)
            server.feed.publish(b"1\n")
            await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        server.feed.publish(b"2\n")
        assert not server.feed.followed
        assert server.log.events == []


async def test_a_follower_that_reads_nothing_loses_lines_and_holds_nobody(tmp_path: Path):
    line = b'"' + b"x" * 997 + b'"\n'
    many = 2 * CAPACITY // len(line)
    async with served(tmp_path) as server, await server.connect() as slow, await server.connect() as quick:
        for stream in (slow, quick):
            await stream.send_all(b'{"request": "follow"}\n')
            await lines_of(stream, 1)
        for _ in range(many):
            server.feed.publish(line)
            if len(await quick.receive_some()) < len(line):
                await trio.testing.wait_all_tasks_blocked()
        assert (await server.ask("status"))["schema"] == 1
        received, lost = b"", 0
        while not lost:
            received += await slow.receive_some()
            *whole, _rest = received.split(b"\n")
            gaps = [json.loads(found)["lost"] for found in whole if found.startswith(b"{")]
            lost = sum(gaps)
        assert len(gaps) == 1
        assert whole.count(line[:-1]) + lost == many
        assert 0 < lost < many
        assert server.log.events == []


async def test_followers_beyond_the_limit_are_told_so_and_others_may_still_ask(tmp_path: Path):
    async with served(tmp_path) as server:
        streams = [await server.connect() for _ in range(control.MAX_STREAMS)]
        for stream in streams:
            await stream.send_all(b'{"request": "follow"}\n')
            await lines_of(stream, 1)
        with pytest.raises(ControlError, match="8 clients follow already") as caught:
            await server.ask("follow")
        assert caught.value.exit_code == 75
        assert (await server.ask("status"))["schema"] == 1
        for stream in streams:
            await stream.aclose()


async def test_a_line_without_end_ends_the_connection(tmp_path: Path):
    async with served(tmp_path) as server, await server.connect() as stream:
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x" * 2 * control.MAX_LINE)
        (failed,) = server.log.of("control.failed")
        assert failed == {"reason": f"a request is longer than {control.MAX_LINE} bytes"}
        assert (await server.ask("status"))["schema"] == 1


async def test_clients_beyond_the_limit_are_told_so_and_turned_away(tmp_path: Path):
    async with served(tmp_path) as server:
        streams = [await server.connect() for _ in range(control.MAX_CLIENTS)]
        for stream in streams:
            await stream.send_all(b'{"request": "status"}\n')
            assert await stream.receive_some()
        for _ in range(20):
            # whether or not there was time to send the request
            with pytest.raises(ControlError, match="more than 16 clients") as caught:
                await server.ask("status")
            assert caught.value.exit_code == 75
        assert server.log.of("control.failed") == [{"reason": "more than 16 clients"}] * 20
        for stream in streams:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await server.ask("status"))["schema"] == 1


async def test_a_client_that_takes_no_answer_is_left(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 -- pytest-trio takes the clock from here
):
    async with served(tmp_path) as server, await server.connect() as stream:
        await stream.send_all(b'{"request": "large"}\n')
        await trio.sleep(control.SEND + 1)
        assert server.log.of("control.failed") == [{"reason": "a client did not take its answer in 5 s"}]


async def test_a_client_that_asks_nothing_is_left(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 -- pytest-trio takes the clock from here
):
    async with served(tmp_path) as server, await server.connect() as stream:
        await stream.send_all(b'{"request": ')
        assert await stream.receive_some() == b""
        assert trio.current_time() >= control.IDLE
        assert server.log.events == []


async def test_a_client_that_vanishes_is_its_own_affair(tmp_path: Path):
    async with served(tmp_path) as server:
        stream = await server.connect()
        await stream.send_all(b'{"request": "large"}\n')
        await stream.aclose()
        assert (await server.ask("status"))["schema"] == 1
        assert server.log.events == []


def test_where_nobody_listens_the_client_says_so(tmp_path: Path):
    with pytest.raises(ControlError, match="no instance is running here") as caught:
        ask(str(tmp_path / "none.control"), "status")
    assert caught.value.exit_code == 69


def test_a_daemon_that_takes_nobody_in_is_busy(tmp_path: Path):
    path = str(tmp_path / "full.control")
    with (
        unix_listener.bind(path, 0o600, backlog=0),
        socket.socket(socket.AF_UNIX) as waits,
    ):
        waits.connect(path)
        with pytest.raises(ControlError, match="too many wait to ask this instance") as caught:
            ask(path, "status")
    assert caught.value.exit_code == 75


def test_a_daemon_that_does_not_answer_is_busy(tmp_path: Path):
    path = str(tmp_path / "mute.control")
    with (
        unix_listener.bind(path, 0o600),
        pytest.raises(ControlError, match=r"no answer within 0\.02 s") as caught,
    ):
        ask(path, "status", timeout=0.02)
    assert caught.value.exit_code == 75


async def test_an_answer_that_is_no_object_is_a_protocol_error(tmp_path: Path):
    path = str(tmp_path / "odd.control")
    for data in (b"hello\n", b"[]\n"):
        error = await failure_of(path, data)
        assert str(error) == f"{path}: the answer is no JSON object"
        assert error.exit_code == 76


async def test_a_daemon_that_ends_before_it_has_answered_is_gone(tmp_path: Path):
    path = str(tmp_path / "ending.control")
    for data in (b"", b'{"schema": 1, "inst'):
        error = await failure_of(path, data)
        assert str(error) == f"{path}: the instance hung up"
        assert error.exit_code == 69


async def failure_of(path: str, data: bytes) -> ControlError:
    """What becomes of a question where this is all that comes back."""
    with unix_listener.bind(path, 0o600) as listener:

        def answer() -> None:
            listener.settimeout(None)
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, answer)
            with pytest.raises(ControlError) as caught:
                await trio.to_thread.run_sync(ask, path, "status")
    return caught.value
