"""Listening Unix sockets in the file system: made without a moment of wider permission, removed by their maker."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator


@contextmanager
def bind(path: str, mode: int, *, backlog: int = 8) -> Iterator[socket.socket]:
    """Non-blocking listening stream socket at ``path``; closed and unlinked at the end.

    A stale socket file is replaced; one that somebody listens on is not.
    SocketError (exit code 73) where the socket cannot be made.
    """
    raise NotImplementedError
