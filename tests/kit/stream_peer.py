"""The other end of a connection's stream: what it sends, with which descriptors; none may be left open."""

from __future__ import annotations

import array
import os
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cvqd.host.listener import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator


def open_descriptors() -> dict[str, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = str(entry.readlink())
        except FileNotFoundError:
            continue  # the one that lists the directory
    return found


@contextmanager
def no_leak() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


def pair() -> tuple[Connection, socket.socket]:
    ours, theirs = socket.socketpair()
    return Connection(ours), theirs


def send(peer: socket.socket, data: bytes, *fds: int) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
    assert peer.sendmsg([data], ancillary) == len(data)


@contextmanager
def eventfds(count: int) -> Iterator[list[int]]:
    fds = [os.eventfd(0) for _ in range(count)]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)
