"""An instance's sockets: inherited, named on the command line, or made as configured."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from cvqd.errors import ActivationError
from cvqd.host import unix_listener
from cvqd.host.activation import CONTROL, FRONTEND, take_inherited
from cvqd.host.listener import Listener

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from cvqd.config import Config


class Sockets(NamedTuple):
    """``frontend`` for vhost-user, ``control`` for operators; ``…_at`` is each one's address, for people."""

    frontend: Listener
    frontend_at: str
    control: socket.socket
    control_at: str


@contextmanager
def opened(config: Config, *, socket_path: str | None, fd: int | None) -> Iterator[Sockets]:
    """Both sockets; the files of those made here are removed with them.

    ``socket_path``, ``fd`` or a socket passed by the service manager replaces the configured vhost-user
    socket.  SocketError if one is not available.
    """
    inherited = take_inherited(os.environ)
    if FRONTEND in inherited and (fd is not None or socket_path is not None):
        raise ActivationError(FRONTEND, "comes from the service manager, and another from the command line")
    with ExitStack() as stack:
        for passed in inherited.values():
            stack.enter_context(closing(passed))
        at = f"fd {fd}"
        if fd is not None:
            listener = Listener.from_descriptor(fd)
        else:
            path = socket_path or config.frontend.socket
            bound, at = _bound(stack, inherited.get(FRONTEND), path, config.frontend.mode)
            listener = Listener(bound)
        stack.callback(listener.close)
        asked, asked_at = _bound(stack, inherited.get(CONTROL), config.control.socket, config.control.mode)
        yield Sockets(listener, at, asked, asked_at)


def _bound(
    stack: ExitStack, inherited: socket.socket | None, path: str, mode: int
) -> tuple[socket.socket, str]:
    if inherited is not None:
        return inherited, inherited.getsockname()
    return stack.enter_context(unix_listener.bind(path, mode)), path
