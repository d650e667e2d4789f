"""What the device is given for the call descriptors that a front-end sent, or did not send."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cvqd.host.bridge import CallBridge
from cvqd.host.doorbell import ring
from cvqd.wire.vhost_user import DescriptorKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.events import EventLog
    from cvqd.wire.vhost_user import FileDescriptor


class CallDescriptors:
    """Eventfds go to the device as they are; for others an eventfd of ours stands in and is bridged."""

    def __init__(self, log: EventLog) -> None:
        self._bridge = CallBridge()
        self._stand_ins: dict[int, int] = {}
        self._log = log

    @property
    def bridged(self) -> frozenset[int]:
        """Rings whose calls pass through the daemon."""
        return frozenset(self._stand_ins)

    async def run(self) -> None:
        """Pass calls on until cancelled."""
        await self._bridge.run()

    def lend(
        self,
        index: int,
        call: FileDescriptor | None,
        *,
        ours: bool,
        message: Callable[[], bool] | None = None,
    ) -> int:
        """Descriptor number for the device, -1 for none; ``ours`` is a ring that the daemon itself calls.

        Without a descriptor ``message`` passes a call on; it returns False if it could not yet.
        """
        if call is None:
            return -1 if message is None else self._stand_in(index, message)
        if call.kind is DescriptorKind.EVENTFD or ours:
            return call.fileno()
        return self._stand_in(index, partial(_signal, call.fileno()))

    def _stand_in(self, index: int, deliver: Callable[[], bool]) -> int:
        if index not in self._stand_ins:
            self._stand_ins[index] = self._bridge.add(deliver)
            self._log.emit("ring.bridged", queue=index)
        return self._stand_ins[index]

    def detach(self, index: int) -> int | None:
        """Have a ring's next ``lend`` start over; returns its stand-in, if any, for the caller to close."""
        return self._stand_ins.pop(index, None)

    def close(self, stand_in: int | None) -> None:
        """Close what ``detach`` returned; the device must have let go of it."""
        if stand_in is not None:
            self._bridge.remove(stand_in)

    def close_all(self) -> None:
        """Close all stand-ins."""
        for index in self.bridged:
            self.close(self.detach(index))


def _signal(fd: int) -> bool:
    ring(fd)
    return True
