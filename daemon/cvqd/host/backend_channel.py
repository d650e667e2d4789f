"""The back-end channel: our own requests to the front-end, over the descriptor of SET_BACKEND_REQ_FD."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from cvqd.wire.vhost_user import BackRequest, encode_request
from cvqd.wire.vhost_user_payloads import VringState

if TYPE_CHECKING:
    from cvqd.wire.vhost_user import FileDescriptor

_CONFIG_CHANGE: Final = encode_request(BackRequest.CONFIG_CHANGE_MSG)
_CALLS: Final = [
    encode_request(BackRequest.VRING_CALL, VringState(index, 0).encode()) for index in range(256)
]


def send_config_change(channel: FileDescriptor) -> bool:
    """Tell the front-end to read the configuration again; False if that was not possible.

    The channel may be a socket or, from ``virtio_uml``, the write end of a pipe, hence ``write``.
    Never blocks: False for a full (or closed) channel, and the caller may try again.
    No reply is requested.  A message of this size is written whole or not at all (PIPE_BUF is 4096).
    """
    try:
        return _send(channel, _CONFIG_CHANGE)
    except OSError:
        return False


def send_vring_call(channel: FileDescriptor, index: int) -> bool:
    """Call the guest for a ring, likewise; False while the channel is full, True if its other end is gone."""
    try:
        return _send(channel, _CALLS[index])
    except BlockingIOError:
        return False
    except OSError:
        return True


def _send(channel: FileDescriptor, message: bytes) -> bool:
    fd = channel.fileno()
    os.set_blocking(fd, False)
    return os.write(fd, message) == len(message)
