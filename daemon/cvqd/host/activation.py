"""Listening sockets that the service manager made: LISTEN_FDS of sd_listen_fds(3).

They are named ``frontend`` and ``control``.  Any other socket is a mistake in a
unit and is refused, because clients of a socket that nobody serves would hang.
The sockets belong to the manager: nothing here removes their files.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from cvqd.errors import ActivationError, SocketError
from cvqd.host import unix_listener

if TYPE_CHECKING:
    import socket
    from collections.abc import MutableMapping

FRONTEND: Final = "frontend"
CONTROL: Final = "control"

#: SD_LISTEN_FDS_START of <systemd/sd-daemon.h>
_FIRST: Final = 3


def take_inherited(environment: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """The inherited sockets by name, none if they are not for this process; removes the variables.

    ActivationError for a name that is unknown or comes twice, SocketError for anything that is not a
    listening Unix stream socket.
    """
    ours = environment.pop("LISTEN_PID", None) == str(os.getpid())
    count = environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "")
    if not ours:
        return {}
    if not (count.isascii() and count.isdigit()):
        raise ActivationError("LISTEN_FDS", f"{count!r} is not a number")
    numbers = range(_FIRST, _FIRST + int(count))
    found: dict[str, socket.socket] = {}
    try:
        for fd, name in zip(numbers, _names(names, len(numbers)), strict=True):
            place = f"fd {fd} ({name})"
            if name not in (FRONTEND, CONTROL):
                raise ActivationError(place, f"FileDescriptorName= must be {FRONTEND} or {CONTROL}")
            if name in found:
                raise ActivationError(place, "there is one of this name already")
            found[name] = unix_listener.inherit(fd, place)
            if not unix_listener.listens(found[name]):
                raise SocketError(place, "does not listen; the socket unit needs Accept=no")
    except SocketError:
        for listener in found.values():
            listener.close()
        raise
    return found


def _names(text: str, count: int) -> list[str]:
    names = text.split(":") if text else ["unknown"] * count
    if len(names) != count:
        raise ActivationError("LISTEN_FDNAMES", f"{len(names)} names for {count} sockets")
    return names
