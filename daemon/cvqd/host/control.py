"""The control socket's server: one JSON object per line each way.

A request is ``{"request": NAME, ...}``, its answer the handler's object or
``{"error": REASON}``, with the ``exit_code`` of a blamed error for the command
line behind it.  Clients are local tools that may be stuck or gone: each has a
task, limits and deadlines of its own, and none can hold the daemon.  What the
requests mean is the service's.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import trio

from cvqd.errors import CvqdError

if TYPE_CHECKING:
    import socket

    from cvqd.events import EventLog

#: request object -> answer object; a CvqdError becomes {"error": ..., "exit_code": ...}
Handler = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]

#: bytes of a request line
MAX_LINE: Final = 64 * 1024
#: clients served at a time; one more is turned away
MAX_CLIENTS: Final = 16
#: seconds in which a client must send a whole line, and take a whole answer
IDLE: Final = 30.0
SEND: Final = 5.0


async def serve(bound: socket.socket, handlers: Mapping[str, Handler], log: EventLog) -> None:
    """Answer requests on a listening socket (``unix_listener.bind`` makes one) until cancelled."""
    listener = trio.socket.from_stdlib_socket(bound)
    clients = 0

    async def attend(stream: trio.SocketStream) -> None:
        nonlocal clients
        try:
            async with stream:
                await _converse(stream, handlers, log)
        finally:
            clients -= 1

    async with trio.open_nursery() as nursery:
        while True:
            try:
                connection, _ = await listener.accept()
            except OSError as error:
                # out of descriptors, mostly: wait for better times
                log.emit("control.failed", reason=str(error))
                await trio.sleep(0.1)
                continue
            if clients >= MAX_CLIENTS:
                log.emit("control.failed", reason=f"more than {MAX_CLIENTS} clients")
                connection.close()
                continue
            clients += 1
            nursery.start_soon(attend, trio.SocketStream(connection))


async def _converse(stream: trio.SocketStream, handlers: Mapping[str, Handler], log: EventLog) -> None:
    pending = bytearray()
    try:
        while (line := await _line(stream, pending)) is not None:
            answer = await _answer(line, handlers, log)
            data = json.dumps(answer, separators=(",", ":"), default=str).encode() + b"\n"
            with trio.fail_after(SEND):
                await stream.send_all(data)
    except trio.BrokenResourceError:
        pass  # the client is gone: its affair
    except (_ClientError, trio.TooSlowError) as error:
        log.emit("control.failed", reason=str(error) or f"a client did not take its answer in {SEND:g} s")


class _ClientError(Exception):
    """A client that is to be left."""


async def _line(stream: trio.SocketStream, pending: bytearray) -> bytes | None:
    """Next line without its end; None where the client has closed or is silent for too long."""
    line = None
    with trio.move_on_after(IDLE):
        while (end := pending.find(b"\n")) < 0:
            if len(pending) > MAX_LINE:
                raise _ClientError(f"a request is longer than {MAX_LINE} bytes")
            chunk = await stream.receive_some(4096)
            if not chunk:
                return None
            pending += chunk
        line = bytes(pending[:end])
        del pending[: end + 1]
    return line


async def _answer(line: bytes, handlers: Mapping[str, Handler], log: EventLog) -> Mapping[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return {"error": "not a line of JSON"}
    name = request.get("request") if isinstance(request, dict) else None
    handler = handlers.get(name) if isinstance(name, str) else None
    if handler is None:
        return {"error": f'unknown request; "request" is one of {", ".join(sorted(handlers))}'}
    try:
        return await handler(request)
    except CvqdError as error:
        return {"error": str(error), "exit_code": error.exit_code}
    except Exception as error:  # noqa: BLE001 -- a question must not cost the guest its network
        log.emit("control.failed", reason=f"{name}: {error!r}")
        return {"error": f"internal error: {error!r}"}
