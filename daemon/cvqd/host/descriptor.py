"""An owned file descriptor: received from a peer, identified by kind and identity, closed once."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cvqd.wire.vhost_user import DescriptorKind, FileIdentity


class OwnedFd:
    """Satisfies ``wire.vhost_user.FileDescriptor``; identity and kind are read when it is received.

    If a task waits on the number, call trio's ``notify_closing`` before ``close``.
    """

    __slots__ = ("_fd", "identity", "kind")

    def __init__(self, fd: int) -> None:
        """Take over ``fd``; it is closed even if it cannot be examined (OSError)."""
        self._fd = fd
        try:
            found = os.fstat(fd)
            self.kind = _kind(fd, found.st_mode)
        except OSError:
            self.close()
            raise
        self.identity = FileIdentity(found.st_dev, found.st_ino)

    def __repr__(self) -> str:
        return f"<OwnedFd {self._fd} {self.kind.value}>"

    def fileno(self) -> int:
        """The number; ValueError after ``close``."""
        if self._fd < 0:
            raise ValueError("the descriptor is closed")
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._fd < 0

    def close(self) -> None:
        """Close the descriptor; harmless when repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _kind(fd: int, mode: int) -> DescriptorKind:
    if stat.S_ISREG(mode):
        return DescriptorKind.FILE
    if stat.S_ISSOCK(mode):
        return DescriptorKind.SOCKET
    if stat.S_ISFIFO(mode):
        return DescriptorKind.PIPE
    # anonymous inodes have no type in st_mode, but fs/eventfd.c gives its own a name
    if str(Path(f"/proc/self/fd/{fd}").readlink()) == "anon_inode:[eventfd]":
        return DescriptorKind.EVENTFD
    return DescriptorKind.OTHER
