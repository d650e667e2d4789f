"""Transfers of any size through a pipe that a peer handed over, however slow the peer.

The descriptor may also be a socket.  A transfer never blocks the event loop, and
it fails if the peer makes no progress for ``patience`` seconds.

O_NONBLOCK is a flag of the open file description, which the peer shares: the
peer may change it, and trio's ``FdStream`` would, if it were closed during
another transfer through the same pipe.  So it is set before every call.
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

#: bytes that are written at a time: as many as every pipe takes whole, ``PIPE_BUF``
_PIECE: Final = 4096
#: bytes that are read at a time: what a pipe holds by default
_READ: Final = 64 << 10


async def write_all(fd: int, data: bytes, patience: float) -> None:
    """Write everything; ``fd`` stays open.  OSError if the peer does not take it."""
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
    """Read to the end, ``most`` bytes at most; ``fd`` stays open.  OSError if the end does not come."""
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
    """The result of ``act``, which is called whenever ``fd`` is ready until it need not wait."""
    await trio.lowlevel.checkpoint()
    while True:
        os.set_blocking(fd, False)
        try:
            return act()
        except BlockingIOError:
            await wait(fd)
