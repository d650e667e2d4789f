"""The vhost-user socket, our end: one front-end at a time, the others wait in the backlog.

What a message means is ``core.session``'s; here are bytes, descriptors and the
end of a connection.  Descriptors travel with the first byte of a header and a
greedy read would merge messages and lose them, therefore: exactly twelve
bytes, then exactly the payload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from cvqd.wire.vhost_user import Message

if TYPE_CHECKING:
    import socket


class Connection:
    """One front-end's stream.  One task receives."""

    def __init__(self, stream: socket.socket) -> None:
        """Take over a connected stream socket."""

    async def receive(self) -> Message | None:
        """Next whole message, None at an orderly end; its descriptors (``OwnedFd``) are the caller's.

        FrontendError for everything that is no message: truncated, oversize, wrong flags,
        descriptors in the wrong place or too many.  Nothing leaks then, nor on cancellation.
        """

    async def send(self, data: bytes) -> None:
        """Send a reply; FrontendError if the front-end is gone."""

    def pending(self) -> bool:
        """A message, or the stream's end, waits unread."""

    def close(self) -> None:
        """Close the socket; harmless when repeated."""


class Listener:
    """Where front-ends come from: ``async with Connection`` for each of ``accept``."""

    def __init__(self, bound: socket.socket) -> None:
        """Take over a listening stream socket (``host.unix_listener.bind`` makes one)."""

    @classmethod
    def from_descriptor(cls, fd: int) -> Self:
        """Take over an inherited descriptor, listening or already connected.

        SocketError if it is no Unix stream socket.
        """

    async def accept(self) -> Connection | None:
        """Next front-end; None when an inherited connection has been handed out and no other can come."""

    def close(self) -> None:
        """Stop listening."""
