"""Where the sockets of an instance are unless its configuration says otherwise.

It imports nothing, so that verbs that talk to a running instance start fast.
"""

from __future__ import annotations

from typing import Final

#: made by systemd/tmpfiles.conf
DIRECTORY: Final = "/run/cvqd"

#: suffix of a control socket's name
CONTROL: Final = ".control"


def frontend_socket(instance: str) -> str:
    """Where the front-end of an instance connects."""
    return f"{DIRECTORY}/{instance}.sock"


def control_socket(instance: str) -> str:
    """Where an instance answers the other verbs."""
    return f"{DIRECTORY}/{instance}{CONTROL}"
