"""Two simulators as two ends of a cable: one Unix datagram per frame.

Each end receives at its own path and sends to the other's, so that either may
be restarted: while one is absent, frames to it are lost, as on a cable that is
pulled out.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zlib import crc32

from cvqd.errors import DeviceError
from cvqd.simulator.datapath import BUDGET, MAX_FRAME

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from cvqd.simulator.spec import PeerPath

#: bytes of socket buffer requested in each direction; the kernel limits them (net.core.wmem_max, rmem_max)
_BUFFER: Final = 1 << 20

_REASONS: Final = {
    errno.ENOENT: "peer.absent",
    errno.ECONNREFUSED: "peer.absent",
    errno.EAGAIN: "peer.full",
    errno.ENOBUFS: "peer.full",
    errno.EMSGSIZE: "peer.too_long",
}


class Peer:
    """One end, a context manager; DeviceError EADDRINUSE if another process uses the path to bind."""

    def __init__(self, path: PeerPath) -> None:
        self._bind = path.bind
        self._connect = path.connect
        self._identity: tuple[int, int] | None = None
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )

    def __enter__(self) -> Self:
        try:
            self._clear_the_way()
            # unix_bind in net/unix/af_unix.c gives the path the mode of the socket's inode
            os.fchmod(self._socket.fileno(), 0o600)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
            self._socket.bind(self._bind)
            self._identity = _identity(self._bind)
        except OSError as error:
            self._socket.close()
            raise DeviceError("bind", error.errno or 0, os.strerror(error.errno or 0), self._bind) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        # only our own: another instance may have taken over the path
        with suppress(OSError):
            if _identity(self._bind) == self._identity:
                Path(self._bind).unlink()

    def fileno(self) -> int:
        """The socket, readable when frames have arrived."""
        return self._socket.fileno()

    def send(self, frame: bytes, pair: int) -> str | None:  # noqa: ARG002 -- a cable has no pairs
        """Send one frame; the drop reason if it was lost."""
        try:
            self._socket.sendto(frame, self._connect)
        except OSError as error:
            return _REASONS.get(error.errno or 0, "peer.failed")
        return None

    def arrived(self) -> tuple[list[bytes], bool]:
        """Up to ``BUDGET`` frames that have arrived, and whether there may be more."""
        frames: list[bytes] = []
        for _ in range(BUDGET):
            try:
                frames.append(self._socket.recv(MAX_FRAME + 1))
            except BlockingIOError:
                return frames, False
        return frames, True

    def _clear_the_way(self) -> None:
        try:
            if not stat.S_ISSOCK(Path(self._bind).stat().st_mode):
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(self._bind)
            except ConnectionRefusedError:
                Path(self._bind).unlink()
                return
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def steer(frame: bytes, pairs: int) -> int:
    """Pair on which a frame from outside is received: always the same for two MAC addresses."""
    return crc32(frame[:12]) % pairs


def _identity(path: str) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_dev, found.st_ino
