"""Bytes through a pipe that a peer handed over, as many as they are, however slow the peer.

The descriptor may be a socket as well.  It is waited for, never blocked on; a peer that makes no progress
for ``patience`` seconds is given up.

Whether a call waits is a flag of what the peer's descriptor and ours both refer to, not ours alone: the peer
may change it, and trio's ``FdStream`` would, when it is closed under another transfer through the same pipe.
"""

from __future__ import annotations

import os
from errno import EFBIG, EPIPE, ETIMEDOUT
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Result = TypeVar("Result")

#: bytes at a time: as many as every pipe takes at once, ``PIPE_BUF``
_PIECE: Final = 4096
#: bytes that are read at a time: what a pipe holds by default
_READ: Final = 64 << 10


async def write_all(fd: int, data: bytes, patience: float) -> None:
    """Write everything; ``fd`` stays open.  OSError where the peer has not taken it."""
    view = memoryview(data)
    at = 0
    while at < len(view):
        try:
            with trio.fail_after(patience):
                at += await _when(
                    trio.lowlevel.wait_writable, fd, partial(os.write, fd, view[at : at + _PIECE])
                )
        except trio.TooSlowError:
            reason = f"nothing was taken for {patience:g} s, {len(view) - at} bytes are left"
            raise TimeoutError(ETIMEDOUT, reason) from None
        except BrokenPipeError:
            raise BrokenPipeError(EPIPE, f"nobody reads any more, {len(view) - at} bytes are left") from None


async def read_all(fd: int, most: int, patience: float) -> bytes:
    """Everything until the end; ``fd`` stays open.  OSError where it does not come."""
    data = bytearray()
    while True:
        try:
            with trio.fail_after(patience):
                part = await _when(trio.lowlevel.wait_readable, fd, partial(os.read, fd, _READ))
        except trio.TooSlowError:
            reason = f"nothing came for {patience:g} s after {len(data)} bytes"
            raise TimeoutError(ETIMEDOUT, reason) from None
        if not part:
            return bytes(data)
        data += part
        if len(data) > most:
            raise OSError(EFBIG, f"more than {most} bytes")


async def _when(wait: Callable[[int], Awaitable[None]], fd: int, act: Callable[[], Result]) -> Result:
    """What ``act`` returns, as soon as it need not wait."""
    await trio.lowlevel.checkpoint()
    while True:
        os.set_blocking(fd, False)
        try:
            return act()
        except BlockingIOError:
            await wait(fd)
