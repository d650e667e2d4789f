"""Descriptors that a front-end sent: what they are known to be, and closed once."""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING

import pytest

from cvqd.host.descriptor import OwnedFd
from cvqd.wire.vhost_user import DescriptorKind

if TYPE_CHECKING:
    from pathlib import Path


def test_a_descriptors_kind_and_identity_are_known(tmp_path: Path):
    left, right = socket.socketpair()
    read, write = os.pipe()
    (tmp_path / "file").touch()
    numbers = {
        DescriptorKind.EVENTFD: os.eventfd(0),
        DescriptorKind.SOCKET: left.detach(),
        DescriptorKind.PIPE: write,
        DescriptorKind.FILE: os.memfd_create("x"),
        DescriptorKind.OTHER: os.open("/dev/null", os.O_RDONLY),
    }
    epoll = select.epoll()
    for kind, number in numbers.items():
        again = OwnedFd(os.dup(number))
        owned = OwnedFd(number)
        assert (owned.kind, owned.fileno()) == (kind, number)
        assert owned.identity == again.identity == (os.fstat(number).st_dev, os.fstat(number).st_ino)
        again.close()
        owned.close()
    assert OwnedFd(os.dup(epoll.fileno())).kind is DescriptorKind.OTHER
    epoll.close()
    right.close()
    os.close(read)


def test_a_descriptor_is_closed_once_and_remembers_who_it_was():
    owned = OwnedFd(os.memfd_create("x"))
    number, identity = owned.fileno(), owned.identity
    owned.close()
    taken = os.open("/dev/null", os.O_RDONLY)
    assert taken == number, "the number is in use again"
    owned.close()
    os.fstat(taken)
    os.close(taken)
    assert owned.identity == identity
    with pytest.raises(ValueError, match="closed"):
        owned.fileno()
