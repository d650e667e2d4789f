"""A verb of the command line in its own process, for verbs that run until something ends them."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class VerbProcess:
    """``greeting`` is its first line; ``out`` and ``err`` read to the end; ``wait`` is the exit code."""

    def __init__(self, process: trio.Process, greeting: str) -> None:
        self._process = process
        self.greeting = greeting

    async def out(self) -> bytes:
        return await _rest(self._process.stdout)

    async def err(self) -> bytes:
        return await _rest(self._process.stderr)

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    async def wait(self) -> int:
        return await self._process.wait()


@asynccontextmanager
async def running(*arguments: str, greeting: str) -> AsyncIterator[VerbProcess]:
    """``cvqd`` with these arguments, once it has said what begins so on standard error; killed at the end."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "cvqd", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said = b""
        while not said.endswith(b"\n"):
            said += await process.stderr.receive_some()
        said_first = said.decode().removesuffix("\n")
        assert said_first.startswith(greeting)
        yield VerbProcess(process, said_first)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()
            await process.stderr.aclose()


async def _rest(stream: trio.abc.ReceiveStream | None) -> bytes:
    assert stream is not None
    return b"".join([bytes(chunk) async for chunk in stream])
