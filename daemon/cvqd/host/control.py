"""The control socket's server: one JSON object per line each way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import trio

    from cvqd.events import EventLog

#: request object -> answer object; a CvqdError becomes {"error": ...}
Handler = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]


async def serve(
    listener: trio.socket.SocketType, handlers: Mapping[str, Handler], log: EventLog
) -> None:
    """Answer requests on a listening socket until cancelled.

    ``{"request": NAME, ...}`` goes to ``handlers[NAME]``.  Get the listener from
    ``host.unix_listener.bind``.
    """
    raise NotImplementedError
