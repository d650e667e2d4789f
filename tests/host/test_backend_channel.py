"""The back-end's own messages: written whole or not at all."""

from __future__ import annotations

import os
import socket

import pytest

from cvqd.host.backend_channel import send_config_change
from cvqd.host.descriptor import OwnedFd
from cvqd.wire.vhost_user import HEADER, BackRequest


def full(fd: int) -> None:
    os.set_blocking(fd, False)
    while True:
        try:
            os.write(fd, bytes(4096))
        except BlockingIOError:
            return


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_config_change_is_written_whole_and_never_blocks(kind: str):
    if kind == "pipe":
        read, write = os.pipe()
    else:
        read, write = (end.detach() for end in socket.socketpair())
    channel = OwnedFd(write)
    assert send_config_change(channel)
    assert os.read(read, 100) == HEADER.pack(BackRequest.CONFIG_CHANGE_MSG, 1, 0)
    full(write)
    os.set_blocking(write, True)
    assert not send_config_change(channel)
    os.close(read)
    assert not send_config_change(channel)
    channel.close()
