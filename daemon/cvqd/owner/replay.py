"""Commands of our own on the shadow queue: state put back into a device before its guest runs.

As many as the queue has room for go out together, with one kick.
"""

from __future__ import annotations

from errno import EIO, EMSGSIZE, ETIMEDOUT
from typing import TYPE_CHECKING

import trio

from cvqd.errors import DeviceError
from cvqd.wire.net_control import ERR, OK, MacTableSet, RxMode, RxModeSet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cvqd.core.queues.shadow_queue import ShadowQueue
    from cvqd.host.doorbell import DoorbellSet
    from cvqd.wire.net_control import Command


async def replay(
    commands: Sequence[Command],
    shadow: ShadowQueue,
    doorbells: DoorbellSet,
    kick_device: Callable[[], None],
    deadline: float,
    *,
    may_widen: bool = True,
) -> bool:
    """Send commands in order and wait for every answer; whether address tables had to be *widened*.

    With ``may_widen`` a device that refuses the address tables is made promiscuous at the end (see
    ``core.address_tables``).
    DeviceError names the first command that is too long for the queue, that the device refused, or that
    it did not answer within ``deadline`` seconds of the last progress.
    """
    commands = list(commands)
    data = [command.encode() for command in commands]
    for place, encoded in enumerate(data):
        if len(encoded) > shadow.max_command:
            what = f"{len(encoded)} bytes, control_queue.max_command allows {shadow.max_command}"
            raise _failed(commands, place, EMSGSIZE, what)
    widened = False
    sent = 0
    open_places: set[int] = set()
    expires = trio.current_time() + deadline
    while sent < len(commands) or open_places:
        while sent < len(commands) and shadow.takes(len(data[sent])):
            shadow.submit(sent, data[sent], expires)
            open_places.add(sent)
            sent += 1
        if shadow.publish():
            kick_device()
        await doorbells.wait(expires)
        for place, ack, _, _ in shadow.reap():
            if ack == ERR and may_widen and isinstance(commands[place], MacTableSet):
                widened = True
                commands.append(RxModeSet(RxMode.PROMISC, 1))
                data.append(commands[-1].encode())
            elif ack != OK:
                raise _failed(commands, place, EIO, f"acknowledged with {ack}")
            open_places.discard(place)
            expires = trio.current_time() + deadline
        if trio.current_time() >= expires:
            raise _failed(
                commands, min(open_places, default=sent), ETIMEDOUT, f"no answer within {deadline:g} s"
            )
    return widened


def _failed(commands: Sequence[Command], place: int, errno: int, what: str) -> DeviceError:
    command = commands[place]
    return DeviceError("replay", errno, f"{command.name}, {place + 1} of {len(commands)}: {what}")
