"""Notifications as messages: VRING_KICK from the front-end, VRING_CALL on the back-end channel.

A vDPA device knows eventfds only, so a ring whose front-end sends messages
gets a kick descriptor of ours: it is lent to the device, and each message rings
it.  Calls cross the bridge.  Everything else works as if the front-end had sent
descriptors.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cvqd.host.backend_channel import send_vring_call
from cvqd.host.descriptor import OwnedFd
from cvqd.host.doorbell import ring

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.core.session.session import Session


def lend_kick(session: Session, index: int) -> bool:
    """Give a ring with addresses and no kick descriptor one of ours; whether it got one."""
    target = session.rings[index]
    if not session.inband or target.kick is not None or target.addresses is None:
        return False
    target.kick = OwnedFd(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    return True


def kick(session: Session, index: int) -> None:
    """Ring for a VRING_KICK; a kick of a ring that is not set up is ignored."""
    descriptor = session.rings[index].kick
    if descriptor is not None:
        ring(descriptor.fileno())


def call(session: Session, index: int) -> Callable[[], bool]:
    """The bridge's action when the device signals; it returns False while the channel is full.

    A guest with thousands of unread messages will look at its rings before it has read the last.
    """

    def deliver() -> bool:
        channel = session.backend_channel
        return channel is None or send_vring_call(channel, index)

    return deliver
