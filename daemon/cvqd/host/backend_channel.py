"""The back-end channel: our own requests to the front-end, on the descriptor of SET_BACKEND_REQ_FD."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cvqd.wire.vhost_user import FileDescriptor


def send_config_change(channel: FileDescriptor) -> bool:
    """Tell the front-end to read the configuration again; False if it could not be told.

    The channel may be a socket or, from ``virtio_uml``, the writing end of a pipe, hence ``write``.
    Never blocks: a full channel (or a closed one) is reported and the caller may try again.
    """
