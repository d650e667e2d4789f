"""Descriptors of a session by name, so that a session can be kept as text: ``eventfd``, ``memory:4096``."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kit.random_frontend import Guest

KINDS: Final = (
    "guest",
    "kick:0",
    "call:0",
    "eventfd",
    "memory:0",
    "memory:4096",
    "memory:4194304",
    "pipe-in",
    "pipe-out",
    "socket",
    "hung-up",
    "listener",
    "datagrams",
    "directory",
    "path",
    "null",
    "read-only",
)


class Files:
    """Descriptors of one session, made when they are first named."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._open = ExitStack()
        self._known: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        if name not in self._known:
            self._known[name] = self._make(name)
        return self._known[name]

    def _make(self, name: str) -> int:
        kind, _, argument = name.partition(":")
        match kind:
            case "guest":
                return self._guest.memory.fileno()
            case "kick":
                return self._guest.driver.queues[int(argument)].kick
            case "call":
                return self._guest.driver.queues[int(argument)].call
            case "eventfd":
                return self._keep(os.eventfd(0, os.EFD_CLOEXEC))
            case "memory":
                fd = self._keep(os.memfd_create("other", os.MFD_CLOEXEC))
                os.ftruncate(fd, int(argument))
                return fd
            case "pipe-in":
                return self._keep(*os.pipe2(os.O_CLOEXEC))
            case "pipe-out":
                return self._keep(*reversed(os.pipe2(os.O_CLOEXEC)))
            case "socket" | "hung-up":
                ours, theirs = socket.socketpair()
                if kind == "hung-up":
                    ours.close()
                    return self._keep(theirs.detach())
                return self._keep(theirs.detach(), ours.detach())
            case "listener":
                listener = socket.socket(socket.AF_UNIX)
                listener.bind("\0cvqd-" + os.urandom(8).hex())
                listener.listen()
                return self._keep(listener.detach())
            case "datagrams":
                return self._keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach())
            case "directory":
                return self._keep(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
            case "path":
                return self._keep(os.open("/", os.O_PATH | os.O_CLOEXEC))
            case "null":
                return self._keep(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
            case "read-only":
                return self._keep(os.open(f"/proc/self/fd/{self['guest']}", os.O_RDONLY | os.O_CLOEXEC))
        raise ValueError(name)

    def _keep(self, *fds: int) -> int:
        for fd in fds:
            self._open.callback(os.close, fd)
        return fds[0]

    def close(self) -> None:
        """All that were made here."""
        self._open.close()
