"""Listening Unix sockets in the file system.

They are made without a moment of wider permissions than configured and without
changing the process's umask.  Sockets made here are removed here; inherited
ones belong to somebody else and stay.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from cvqd.errors import SocketError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def bind(path: str, mode: int, *, backlog: int = 8) -> Iterator[socket.socket]:
    """Non-blocking listening stream socket at ``path``; closed and unlinked at the end.

    A stale socket file is replaced, but neither a socket on which somebody
    listens nor any other kind of file.  SocketError if the socket cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with listener:
        try:
            _remove_stale(path)
            # the file gets the socket's own mode, less the umask (net/unix/af_unix.c unix_bind_bsd),
            # so nobody else can connect until the configured mode is set
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(path)
            made = os.lstat(path)
            os.chmod(path, mode)  # noqa: PTH101
            listener.listen(backlog)
        except OSError as error:
            raise SocketError(path, _cause(path, error)) from error
        try:
            yield listener
        finally:
            _unlink_own(path, made)


def inherit(fd: int, place: str) -> socket.socket:
    """Take over an inherited Unix stream socket; SocketError naming ``place`` if it is not one."""
    try:
        inherited = socket.socket(fileno=fd)
    except OSError as error:
        raise SocketError(place, error.strerror or "is not a socket") from None
    inherited.set_inheritable(False)
    if (inherited.family, inherited.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        inherited.close()
        raise SocketError(place, "is no Unix stream socket")
    inherited.settimeout(0)
    return inherited


def listens(ours: socket.socket) -> bool:
    """Whether it is a listening socket."""
    return bool(ours.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise SocketError(path, "exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108
            return
        except BlockingIOError:
            pass  # a full backlog has a listener behind it
    raise SocketError(path, "another process listens on it")


def _unlink_own(path: str, made: os.stat_result) -> None:
    """Remove the file unless a successor has replaced it."""
    with suppress(OSError):
        if os.path.samestat(os.lstat(path), made):
            os.unlink(path)  # noqa: PTH108


def _cause(path: str, error: OSError) -> str:
    directory = os.path.dirname(path)  # noqa: PTH120
    if isinstance(error, FileNotFoundError):
        return f"the directory {directory} does not exist; make it, or configure another place"
    if isinstance(error, PermissionError):
        return f"no permission to make it in {directory}"
    return error.strerror or str(error)
