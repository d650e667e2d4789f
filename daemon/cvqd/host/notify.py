"""Messages to the service manager: the datagrams of sd_notify(3), and how often it wants a sign of life.

Outside a service there is no manager, and every message is dropped silently.
If a manager does not take a message, that is only logged: the guest's network
does not depend on it.
"""

from __future__ import annotations

import os
import socket
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from cvqd.events import EventLog

#: seconds that the manager has to take a message; its queue is short and fills while it is busy
_PATIENCE: Final = 5.0


class Notifier:
    """Our end of the notification socket; ``address`` is a path, or ``@`` and an abstract name.

    ``watchdog`` is the time in seconds within which the manager wants a sign of life, None if it wants none.
    """

    def __init__(self, address: str | None, log: EventLog, *, watchdog: float | None = None) -> None:
        self.watchdog = watchdog
        self._log = log
        self._socket: trio.socket.SocketType | None = None
        if address is None:
            return
        self._socket = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # not connected yet: whether the address works shows with the first message
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str], log: EventLog) -> Notifier:
        """The notifier that the environment asks for; removes the variables, which are not for children."""
        address = environment.pop("NOTIFY_SOCKET", None)
        every = environment.pop("WATCHDOG_USEC", "")
        # sd_watchdog_enabled(3): a variable that was inherited by mistake names another process
        ours = environment.pop("WATCHDOG_PID", None) in (None, str(os.getpid()))
        asked = ours and every.isascii() and every.isdigit() and int(every) > 0
        return cls(address, log, watchdog=int(every) / 1e6 if asked and address else None)

    async def ready(self) -> None:
        """The service is up, after its start or after a reload."""
        await self._tell("READY=1")

    async def status(self, status: str) -> None:
        """One line for ``systemctl status``."""
        await self._tell(f"STATUS={status}")

    async def reloading(self) -> None:
        """A reload begins; ``ready`` ends it."""
        await self._tell("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")

    async def stopping(self, status: str, *, within: float) -> None:
        """The service ends, in ``within`` seconds at most."""
        await self._tell("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={int(within * 1e6)}")

    async def alive(self) -> None:
        """The sign of life for the watchdog."""
        await self._tell("WATCHDOG=1")

    async def _tell(self, *lines: str) -> None:
        if self._socket is None:
            await trio.lowlevel.checkpoint()
            return
        try:
            with trio.fail_after(_PATIENCE):
                try:
                    await self._socket.send("\n".join(lines).encode())
                except OSError:
                    # not connected yet, or to a manager that has been replaced
                    await self._socket.connect(self._address)
                    await self._socket.send("\n".join(lines).encode())
        except (OSError, trio.TooSlowError) as error:
            reason = str(error) or f"not taken within {_PATIENCE:g} s"
            self._log.emit("notify.failed", message=lines[0], reason=reason)

    def close(self) -> None:
        """Close the socket; harmless when repeated."""
        if self._socket is not None:
            self._socket.close()
