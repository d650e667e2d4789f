"""Our end of the vhost-user socket: one front-end at a time, others wait in the backlog.

This file deals in bytes, descriptors and the end of a connection;
``core.session`` knows what a message means.  Descriptors travel with the first
byte of a header.  A greedy read could attach those of the next message to one
that has none (and a plain ``recv`` drops them), so each read takes exactly the
twelve bytes of the header, then exactly the payload.
"""

from __future__ import annotations

import array
import select
import socket
from typing import TYPE_CHECKING, Final, Self

import trio

from cvqd.errors import FrontendError, SocketError
from cvqd.host import unix_listener
from cvqd.host.descriptor import OwnedFd
from cvqd.wire.vhost_user import HEADER, MAX_DESCRIPTORS, Message, decode_header, request_name

if TYPE_CHECKING:
    from types import TracebackType

_ANCILLARY: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)

#: Seconds in which a reply must fit into the socket's buffer, which holds hundreds.  Only a front-end that
#: keeps sending requests without reading the replies can fill it; one that is merely paused cannot.
SEND: Final = 10.0

#: A peer that closes with our reply unread resets the stream; that counts as an orderly end.
_GONE: Final = (BrokenPipeError, ConnectionResetError)


class Connection:
    """One front-end's stream.  Only one task may receive."""

    def __init__(self, stream: socket.socket) -> None:
        """Take over a connected stream socket."""
        self._stream = trio.socket.from_stdlib_socket(stream)
        self._poll = select.poll()
        self._poll.register(stream.fileno(), select.POLLIN)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def receive(self) -> Message | None:
        """Next whole message, None at an orderly end; the caller owns its descriptors (``OwnedFd``).

        FrontendError for anything that is not a message: truncated, oversized, wrong flags,
        descriptors in the wrong place or too many.  No descriptor leaks then, nor on cancellation.
        """
        descriptors: list[OwnedFd] = []
        try:
            first = await self._read(HEADER.size, "header", descriptors)
            if not first:
                return None
            header = decode_header(first)
            name = request_name(header.request)
            with_header = len(descriptors)
            payload = await self._read(header.size, name, descriptors)
            if len(payload) < header.size:
                raise FrontendError(name, f"truncated: {len(payload)} of {header.size} payload bytes")
            if len(descriptors) > with_header:
                raise FrontendError(name, "descriptors came with the payload, not with the header")
        except BaseException:
            for descriptor in descriptors:
                descriptor.close()
            raise
        return Message(header.request, header.flags, payload, tuple(descriptors))

    async def _read(self, size: int, name: str, descriptors: list[OwnedFd]) -> bytes:
        """``size`` bytes, fewer at the end of the stream; received descriptors go to ``descriptors``."""
        data = b""
        while len(data) < size:
            try:
                part, ancillary, flags, _ = await self._stream.recvmsg(
                    size - len(data), _ANCILLARY, socket.MSG_CMSG_CLOEXEC
                )
            except _GONE:
                break
            _take(name, ancillary, descriptors)
            if flags & socket.MSG_CTRUNC:
                raise FrontendError(
                    name, f"more descriptors than {MAX_DESCRIPTORS}, or than this process may open"
                )
            if not part:
                break
            data += part
        return data

    async def send(self, data: bytes) -> None:
        """Send a reply; FrontendError if the front-end is gone or does not read."""
        try:
            with trio.fail_after(SEND):
                while data:
                    data = data[await self._stream.send(data) :]
        except _GONE:
            raise FrontendError("reply", "the front-end is gone") from None
        except trio.TooSlowError:
            raise FrontendError("reply", f"the front-end has not read its answers for {SEND:g} s") from None

    def pending(self) -> bool:
        """Whether a message, or the end of the stream, waits unread."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        """Close the socket; harmless when repeated."""
        self._stream.close()


def _take(name: str, ancillary: list[tuple[int, int, bytes]], descriptors: list[OwnedFd]) -> None:
    """Take over every received descriptor, even if one of them cannot be examined (FrontendError)."""
    strange: OSError | None = None
    for level, kind, data in ancillary:
        if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            continue
        numbers = array.array("i")
        numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
        for number in numbers:
            try:
                descriptors.append(OwnedFd(number))
            except OSError as error:
                strange = error
    if strange is not None:
        raise FrontendError(name, f"a descriptor cannot be examined: {strange.strerror}")


class Listener:
    """Accepts front-ends; use each Connection that ``accept`` returns with ``async with``."""

    def __init__(self, ours: socket.socket) -> None:
        """Take over a Unix stream socket that listens (see ``host.unix_listener``) or is connected."""
        self._bound: trio.socket.SocketType | None = None
        self._connected: socket.socket | None = None
        if unix_listener.listens(ours):
            self._bound = trio.socket.from_stdlib_socket(ours)
        else:
            self._connected = ours

    @classmethod
    def from_descriptor(cls, fd: int) -> Self:
        """Take over an inherited descriptor, listening or already connected.

        SocketError if it is not a Unix stream socket, or neither of the two.
        """
        place = f"fd {fd}"
        inherited = unix_listener.inherit(fd, place)
        if not unix_listener.listens(inherited):
            try:
                inherited.getpeername()
            except OSError:
                inherited.close()
                raise SocketError(place, "is neither listening nor connected") from None
        return cls(inherited)

    async def accept(self) -> Connection | None:
        """Next front-end; None if the one inherited connection has been handed out."""
        if self._bound is None:
            await trio.lowlevel.checkpoint()
            connected, self._connected = self._connected, None
            return None if connected is None else Connection(connected)
        while True:
            try:
                stream, _ = await self._bound.accept()
            except ConnectionAbortedError:
                continue  # the client left while it waited
            return Connection(socket.socket(fileno=stream.detach()))

    def close(self) -> None:
        """Stop listening; harmless when repeated."""
        if self._bound is not None:
            self._bound.close()
        if self._connected is not None:
            self._connected.close()
            self._connected = None
