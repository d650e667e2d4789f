"""Shared memory: guest regions from a front-end, and cvqd's own sealed shadow memory.

A mapping lives as long as anything views it: it is unmapped when the last
reference is dropped, never explicitly.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import threading
from typing import Final

from cvqd.errors import FrontendError

# <linux/fcntl.h>; the fcntl module has had these names only since 3.13 on some builds
F_ADD_SEALS: Final = 1033
F_SEAL_SEAL: Final = 1
F_SEAL_SHRINK: Final = 2
F_SEAL_GROW: Final = 4

# MEMBARRIER_CMD_GLOBAL_EXPEDITED issues smp_mb() for the caller (kernel/sched/membarrier.c)
_MEMBARRIER_GLOBAL_EXPEDITED: Final = 2
_SYS_MEMBARRIER: Final = {"aarch64": 283, "riscv64": 283, "x86_64": 324}


class SharedMemory:
    """Bytes mapped from a file; satisfies ``wire.vhost_vdpa.Region``."""

    __slots__ = ("_map", "address", "view")

    def __init__(self, fd: int, size: int, offset: int = 0) -> None:
        # files on hugetlbfs need the alignment that st_blksize tells
        unit = max(mmap.PAGESIZE, os.fstat(fd).st_blksize)
        begin = offset - offset % unit
        self._map = mmap.mmap(fd, offset - begin + size, mmap.MAP_SHARED, offset=begin)
        # a child process would only keep the pages alive
        self._map.madvise(mmap.MADV_DONTFORK)
        self.view = memoryview(self._map)[offset - begin :]
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map)) + offset - begin

    def __len__(self) -> int:
        return len(self.view)


def create(name: str, size: int) -> SharedMemory:
    """New zeroed memory of ``size`` bytes, sealed against any change of size."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
        return SharedMemory(fd, size)
    finally:
        os.close(fd)


def map_guest(request: str, fd: int, size: int, offset: int) -> SharedMemory:
    """Map ``size`` bytes of a front-end's memory file from ``offset``.

    FrontendError, blaming ``request``, if the file cannot be mapped or is shorter
    than claimed: an access beyond its end would kill the process.
    """
    length = os.fstat(fd).st_size
    if length < offset + size:
        raise FrontendError(
            request, f"memory file has {length} bytes, region claims {offset:#x}+{size:#x} of it"
        )
    try:
        return SharedMemory(fd, size, offset)
    except (OSError, ValueError, OverflowError) as error:
        raise FrontendError(request, f"memory file cannot be mapped: {error}") from error


def _no_fence() -> None:
    """x86-64 keeps stores in order and loads in order (TSO)."""


def _locked_instruction() -> None:
    """On x86-64 any locked instruction also orders a store before a load; taking a lock is the cheapest."""
    with _lock:
        pass


def _membarrier() -> None:
    _syscall(_SYS_MEMBARRIER[platform.machine()], _MEMBARRIER_GLOBAL_EXPEDITED, 0, 0)


# ``fence`` orders loads with loads and stores with stores.  ``full_fence`` also orders a store before a
# load, as is needed to publish an event index and then look at the ring once more.
if platform.machine() == "x86_64":
    _lock = threading.Lock()
    fence = _no_fence
    full_fence = _locked_instruction
else:
    _syscall = ctypes.CDLL(None).syscall
    fence = full_fence = _membarrier
