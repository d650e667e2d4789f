"""The control socket's server: one JSON object per line each way.

A request is ``{"request": NAME, ...}``, its answer the handler's object or
``{"error": REASON}``, with the ``exit_code`` of a CvqdError for the command
line client.  If a request asks for a stream, the answer is followed by lines of
a ``feed`` until the client closes or sends anything more.  Clients are local
tools that may be stuck or gone: each has a task, limits and deadlines of its
own, and none can hold up the daemon.  The service's handlers know what the
requests mean.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from cvqd.errors import CvqdError

if TYPE_CHECKING:
    import socket

    from cvqd.events import EventLog
    from cvqd.host.feed import Feed, Follower

#: request object -> answer object; a CvqdError becomes {"error": ..., "exit_code": ...}
Handler = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]


class Stream(NamedTuple):
    """How a request for a stream is served: one answer, then lines as they come."""

    opening: Handler
    feed: Feed


#: bytes of a request line: many times a snapshot of any state that 64 KiB commands lead to
MAX_LINE: Final = 2 << 20
#: commas in a request line: a request has few values, one of which may be long.  A line full of small values
#: would take a second to parse, and no client may hold up the guest's commands for that long
MAX_COMMAS: Final = 100
_CHUNK: Final = 64 << 10
#: clients served at a time; any more are turned away
MAX_CLIENTS: Final = 16
#: how many of them may have a stream: those stay connected, and others must be served too
MAX_STREAMS: Final = 8
#: seconds in which a client must send a whole line, and take a whole answer
IDLE: Final = 30.0
SEND: Final = 5.0
#: seconds that a client has to take the last lines of its stream when the daemon ends
PARTING: Final = 0.05

# sysexits.h
_BUSY: Final = 75


async def serve(
    bound: socket.socket,
    handlers: Mapping[str, Handler],
    log: EventLog,
    streams: Mapping[str, Stream] | None = None,
) -> None:
    """Answer requests on a listening socket (``unix_listener.bind`` makes one) until cancelled."""
    await _Server(handlers, streams or {}, log).accept(trio.socket.from_stdlib_socket(bound))


class _Server:
    def __init__(self, handlers: Mapping[str, Handler], streams: Mapping[str, Stream], log: EventLog) -> None:
        self._handlers = {**handlers, **{name: stream.opening for name, stream in streams.items()}}
        self._streams = streams
        self._log = log
        self._clients = 0
        self._streaming = 0

    async def accept(self, listener: trio.socket.SocketType) -> None:
        async with trio.open_nursery() as nursery:
            told = False
            while True:
                try:
                    connection, _ = await listener.accept()
                except OSError as error:
                    # mostly for lack of descriptors: wait for some to be closed
                    if not told:
                        self._log.emit("control.failed", reason=f"accept: {error.strerror}")
                    told = True
                    await trio.sleep(0.1)
                    continue
                told = False
                if self._clients >= MAX_CLIENTS:
                    await self._turn_away(connection)
                    continue
                self._clients += 1
                nursery.start_soon(self._attend, trio.SocketStream(connection))

    async def _turn_away(self, connection: trio.socket.SocketType) -> None:
        reason = f"more than {MAX_CLIENTS} clients"
        self._log.emit("control.failed", reason=reason)
        with connection, suppress(OSError):
            # the send buffer of a new socket has room for this
            await connection.send(_encoded({"error": reason, "exit_code": _BUSY}))

    async def _attend(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await self._converse(stream)
            except trio.BrokenResourceError:
                pass  # the client is gone, which is fine
            except (_ClientError, trio.TooSlowError) as error:
                reason = str(error) or f"a client did not take its answer in {SEND:g} s"
                self._log.emit("control.failed", reason=reason)
            finally:
                self._clients -= 1

    async def _converse(self, stream: trio.SocketStream) -> None:
        pending = bytearray()
        while (line := await _line(stream, pending)) is not None:
            request = _request(line)
            if request is not None and (wanted := self._streams.get(request["request"])):
                await self._stream(stream, request, wanted)
                return
            await _send(stream, await self._answer(request))

    async def _stream(self, stream: trio.SocketStream, request: dict[str, Any], wanted: Stream) -> None:
        if self._streaming >= MAX_STREAMS:
            await _send(stream, {"error": f"{MAX_STREAMS} clients follow already", "exit_code": _BUSY})
            return
        self._streaming += 1
        try:
            # follow first, so that lines published while the answer is made are not missed
            with wanted.feed.follow() as follower:
                answer = await self._answer(request)
                await _send(stream, answer)
                if "error" in answer:
                    return
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_until_closed, stream, nursery.cancel_scope)
                    await _pass_on(follower, stream)
                    nursery.cancel_scope.cancel()
        finally:
            self._streaming -= 1

    async def _answer(self, request: dict[str, Any] | None) -> Mapping[str, Any]:
        if request is None:
            return {"error": "not a line of JSON"}
        name = request["request"]
        handler = self._handlers.get(name)
        if handler is None:
            return {"error": f'unknown request; "request" is one of {", ".join(sorted(self._handlers))}'}
        try:
            return await handler(request)
        except CvqdError as error:
            return {"error": str(error), "exit_code": error.exit_code}
        except Exception as error:  # noqa: BLE001 -- a question must not cost the guest its network
            self._log.emit("control.failed", reason=f"{name}: {error!r}")
            return {"error": f"internal error: {error!r}"}


async def _send(stream: trio.SocketStream, answer: Mapping[str, Any]) -> None:
    with trio.fail_after(SEND):
        await stream.send_all(_encoded(answer))


def _encoded(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer, separators=(",", ":"), default=str).encode() + b"\n"


async def _pass_on(follower: Follower, stream: trio.SocketStream) -> None:
    """Send lines until the client is gone.

    There is no deadline: a slow client loses lines, but nobody waits for it.
    """
    lines = b""
    with suppress(OSError):
        try:
            while True:
                lines = await follower.take()
                while lines:
                    lines = lines[await stream.socket.send(lines) :]
        except trio.Cancelled:
            # the daemon's last lines are worth a short wait
            with trio.move_on_after(PARTING, shield=True), suppress(trio.BrokenResourceError):
                await stream.send_all(lines + follower.waiting())
            raise


async def _until_closed(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """End a stream as soon as its client closes or sends something."""
    with suppress(trio.BrokenResourceError):
        await stream.receive_some(1)
    scope.cancel()


class _ClientError(Exception):
    """A client broke the rules; its connection is closed."""


async def _line(stream: trio.SocketStream, pending: bytearray) -> bytes | None:
    """Next line without its line break; None if the client has closed or was silent for too long."""
    line = None
    searched = 0
    with trio.move_on_after(IDLE):
        while (end := pending.find(b"\n", searched)) < 0:
            searched = len(pending)
            if searched > MAX_LINE:
                raise _ClientError(f"a request is longer than {MAX_LINE} bytes")
            chunk = await stream.receive_some(_CHUNK)
            if not chunk:
                return None
            pending += chunk
        line = bytes(pending[:end])
        del pending[: end + 1]
    return line


def _request(line: bytes) -> dict[str, Any] | None:
    """A request object with its name, which is empty if there is none; None if the line is not JSON."""
    if line.count(b",") > MAX_COMMAS:
        return {"request": ""}
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(request, dict) or not isinstance(request.get("request"), str):
        return {"request": ""}
    return request
