"""The shipped front-end: the VMM's end of a vhost-user socket, one method per request.

It sends what it is told, also what no front-end should (``send_raw``), and it
believes nothing: every reply's number and flag word are checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from cvqd.testing.sequences import Sequence as MessageSequence
    from cvqd.wire.split_ring import RingAddresses
    from cvqd.wire.vhost_user_payloads import RegionDescription


class FrontEndError(Exception):
    """The back-end answered wrongly, with an error, or not at all."""


class FrontEnd:
    """``need_reply`` of each setter: None asks for an acknowledgement where REPLY_ACK was negotiated."""

    def __init__(self, stream: trio.socket.SocketType) -> None:
        self.protocol_features = 0

    @classmethod
    async def connect(cls, path: str) -> Self:
        """Connect to a back-end's socket."""

    async def play(self, sequence: MessageSequence) -> None:
        """Send a ready-made sequence (``testing.sequences``)."""

    async def send_raw(self, header: bytes, payload: bytes = b"", descriptors: Sequence[int] = ()) -> None:
        """Send any bytes; descriptors go with the header's first byte."""

    async def request(
        self,
        request: int,
        payload: bytes = b"",
        descriptors: Sequence[int] = (),
        *,
        answered: bool = False,
        need_reply: bool | None = None,
    ) -> bytes | None:
        """Send one request; payload of its reply, None if none was asked for; FrontEndError on a non-zero ack."""
