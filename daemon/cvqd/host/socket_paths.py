"""Where the sockets of an instance are unless its configuration says otherwise.

Verbs that ask a running instance read this: it imports nothing.
"""

from __future__ import annotations

from typing import Final

#: made by systemd/tmpfiles.conf
DIRECTORY: Final = "/run/cvqd"

#: ends the name of a control socket
CONTROL: Final = ".control"


def frontend_socket(instance: str) -> str:
    """Where the front-end of an instance connects."""
    return f"{DIRECTORY}/{instance}.sock"


def control_socket(instance: str) -> str:
    """Where an instance answers the other verbs."""
    return f"{DIRECTORY}/{instance}{CONTROL}"
