"""Noticing that the node of an open device is gone.

The kernel deletes the node first and then blocks the process that asked for the
removal until the device is closed (``vhost_vdpa_remove`` in
``drivers/vhost/vdpa.c``).  So the directory is watched with inotify(7), which
costs nothing while nobody deletes anything there.  This file must not know
what follows from a removal.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

# <sys/inotify.h>
_IN_NONBLOCK: Final = os.O_NONBLOCK
_IN_CLOEXEC: Final = os.O_CLOEXEC
_IN_MOVED_FROM: Final = 0x40
_IN_DELETE: Final = 0x200
#: struct inotify_event without its name: wd, mask, cookie, len
_EVENT: Final = struct.Struct("=iIII")


async def wait_removed(path: str) -> None:
    """Return when the node at ``path`` is gone, at once if there is none; OSError without inotify.

    A symbolic link is followed once, now: the node to which it leads is watched.
    """
    node = _resolved(path)
    watch = _watch(node.parent)
    try:
        # the watch comes first, so that no removal can fall in between
        while _exists(node):
            await trio.lowlevel.wait_readable(watch)
            # even if the node exists again by now, it is another device
            if node.name in _names(os.read(watch, 1 << 16)):
                return
    finally:
        trio.lowlevel.notify_closing(watch)
        os.close(watch)


def _resolved(path: str) -> Path:
    return Path(path).resolve()


def _exists(node: Path) -> bool:
    return node.exists()


def _watch(directory: Path) -> int:
    """An inotify descriptor for deletions in a directory."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch: int = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
    if watch < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    if libc.inotify_add_watch(watch, os.fsencode(directory), _IN_DELETE | _IN_MOVED_FROM) < 0:
        number = ctypes.get_errno()
        os.close(watch)
        raise OSError(number, "inotify_add_watch", str(directory))
    return watch


def _names(events: bytes) -> Iterator[str]:
    """Names of deleted files; the event that reports lost events has an empty name."""
    place = 0
    while place < len(events):
        *_, length = _EVENT.unpack_from(events, place)
        place += _EVENT.size
        yield os.fsdecode(events[place : place + length].rstrip(b"\0"))
        place += length
