"""The back-end channel: our own requests to the front-end, on the descriptor of SET_BACKEND_REQ_FD."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from cvqd.wire.vhost_user import BackRequest, encode_request

if TYPE_CHECKING:
    from cvqd.wire.vhost_user import FileDescriptor

_CONFIG_CHANGE: Final = encode_request(BackRequest.CONFIG_CHANGE_MSG)


def send_config_change(channel: FileDescriptor) -> bool:
    """Tell the front-end to read the configuration again; False if it could not be told.

    The channel may be a socket or, from ``virtio_uml``, the writing end of a pipe, hence ``write``.
    Never blocks: a full channel (or one that cannot be written) is reported and the caller may try again.
    No reply is asked for.  Twelve bytes are written whole or not at all (PIPE_BUF is 4096).
    """
    fd = channel.fileno()
    os.set_blocking(fd, False)
    try:
        return os.write(fd, _CONFIG_CHANGE) == len(_CONFIG_CHANGE)
    except OSError:
        return False
