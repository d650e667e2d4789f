"""Bytes through a pipe that a peer handed over, as many as they are, however slow the peer.

The descriptor may be a socket as well.  It is waited for, never blocked on; a peer that makes no progress
for ``patience`` seconds is given up.
"""

from __future__ import annotations

import os
from errno import EFBIG, EPIPE, ETIMEDOUT
from typing import Final

import trio

#: bytes at a time: as many as every pipe takes at once, ``PIPE_BUF``
_PIECE: Final = 4096
#: bytes that are read at a time: what a pipe holds by default
_READ: Final = 64 << 10


async def write_all(fd: int, data: bytes, patience: float) -> None:
    """Write everything; the caller's ``fd`` stays open.  OSError where the peer has not taken it."""
    view = memoryview(data)
    async with trio.lowlevel.FdStream(os.dup(fd)) as stream:
        for at in range(0, len(view), _PIECE):
            try:
                with trio.fail_after(patience):
                    await stream.send_all(view[at : at + _PIECE])
            except trio.TooSlowError:
                reason = f"nothing was taken for {patience:g} s, {len(view) - at} bytes are left"
                raise TimeoutError(ETIMEDOUT, reason) from None
            except trio.BrokenResourceError:
                raise BrokenPipeError(
                    EPIPE, f"nobody reads any more, {len(view) - at} bytes are left"
                ) from None


async def read_all(fd: int, most: int, patience: float) -> bytes:
    """Everything until the end; the caller's ``fd`` stays open.  OSError where it does not come."""
    data = bytearray()
    async with trio.lowlevel.FdStream(os.dup(fd)) as stream:
        while True:
            try:
                with trio.fail_after(patience):
                    part = await stream.receive_some(_READ)
            except trio.TooSlowError:
                reason = f"nothing came for {patience:g} s after {len(data)} bytes"
                raise TimeoutError(ETIMEDOUT, reason) from None
            except trio.BrokenResourceError:
                raise BrokenPipeError(EPIPE, f"the writer broke off after {len(data)} bytes") from None
            if not part:
                return bytes(data)
            data += part
            if len(data) > most:
                raise OSError(EFBIG, f"more than {most} bytes")
