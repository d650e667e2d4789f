"""A VMM's end of a vhost-user socket: messages out, replies in, each of them checked.

It sends what it is told, even what no front-end should (``send_raw``), and
trusts nothing: every reply's request number and flags are checked.
"""

from __future__ import annotations

import array
import socket
from typing import TYPE_CHECKING, Self

import trio

from cvqd.testing.steps import ANSWERED
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.vhost_user import (
    HEADER,
    REPLY_FLAGS,
    FrontRequest,
    ProtocolFeature,
    encode_request,
    request_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from cvqd.testing.sequences import Sequence as Steps


class FrontEndError(Exception):
    """The back-end answered wrongly, with an error, or not at all."""


class FrontEndConnection:
    """A stream; ``need_reply`` None asks for an acknowledgement wherever REPLY_ACK was negotiated."""

    def __init__(self, stream: socket.socket) -> None:
        """Take over a connected stream socket."""
        self._stream = trio.socket.from_stdlib_socket(stream)
        self.protocol_features = 0

    @classmethod
    async def connect(cls, path: str) -> Self:
        """Connect to a back-end's socket."""
        stream = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await stream.connect(path)
        except BaseException:
            stream.close()
            raise
        return cls(socket.socket(fileno=stream.detach()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._stream.close()

    async def send_raw(self, header: bytes, payload: bytes = b"", descriptors: Sequence[int] = ()) -> None:
        """Send any bytes; descriptors go with the first of them.  FrontEndError if the back-end hung up."""
        data = header + payload
        ancillary = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]
            if descriptors
            else []
        )
        try:
            data = data[await self._stream.sendmsg([data], ancillary) :]
            while data:
                data = data[await self._stream.send(data) :]
        except (BrokenPipeError, ConnectionResetError):
            raise FrontEndError("the back-end hung up") from None

    async def receive_reply(self, request: int) -> bytes:
        """Payload of the reply to ``request``; FrontEndError for anything else that comes."""
        number, flags, size = HEADER.unpack(await self._read(HEADER.size))
        if (number, flags) != (request, REPLY_FLAGS):
            raise FrontEndError(
                f"{request_name(request)} answered by {request_name(number)}, flags {flags:#x}"
            )
        return await self._read(size)

    async def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = await self._stream.recv(size - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                raise FrontEndError("the back-end hung up")
            data += part
        return data

    async def hung_up(self) -> bytes:
        """Wait until the back-end hangs up; returns what it sent before that."""
        said = b""
        try:
            while part := await self._stream.recv(4096):
                said += part
        except ConnectionResetError:
            pass
        return said

    async def request(
        self,
        request: FrontRequest,
        payload: bytes = b"",
        descriptors: Sequence[int] = (),
        *,
        need_reply: bool | None = None,
    ) -> bytes:
        """Send one request; its reply's payload, empty if none is due.  FrontEndError for a non-zero ack."""
        if need_reply is None:
            need_reply = request not in ANSWERED and self._negotiated(ProtocolFeature.REPLY_ACK)
        await self.send_raw(encode_request(request, payload, need_reply=need_reply), b"", descriptors)
        if request is FrontRequest.SET_PROTOCOL_FEATURES:
            self.protocol_features = payloads.decode_u64(request.name, payload)
        if request in ANSWERED:
            return await self.receive_reply(request)
        if not need_reply or not self._negotiated(ProtocolFeature.REPLY_ACK):
            return b""
        reply = await self.receive_reply(request)
        if payloads.decode_u64(request.name, reply):
            raise FrontEndError(f"{request.name} was refused")
        return reply

    def _negotiated(self, feature: ProtocolFeature) -> bool:
        return bool(self.protocol_features & feature.mask)

    async def play(self, steps: Steps) -> None:
        """Send a ready-made sequence (``testing.sequences``)."""
        reply: bytes | None = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration:
                return
            reply = await self.request(
                step.request, step.payload, step.descriptors, need_reply=step.need_reply
            )
