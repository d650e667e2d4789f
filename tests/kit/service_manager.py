"""A fake service manager: the socket that a daemon notifies."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from pathlib import Path


class ServiceManager:
    """Receives what ``NOTIFY_SOCKET`` is told; ``address`` is a path, or ``@`` and an abstract name."""

    def __init__(self, address: str | Path) -> None:
        self.address = str(address)
        self._socket = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    async def __aenter__(self) -> Self:
        name = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        await self._socket.bind(name)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def told(self, *, within: float = 10.0) -> dict[str, str]:
        """The next message."""
        with trio.fail_after(within):
            message = await self._socket.recv(4096)
        return dict(line.split("=", 1) for line in message.decode().split("\n"))

    async def told_of(self, variable: str, *, within: float = 10.0) -> dict[str, str]:
        """The next message that has this variable; what comes before it is skipped."""
        with trio.fail_after(within):
            while variable not in (message := await self.told(within=within)):
                pass
        return message
