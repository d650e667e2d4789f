"""The yardstick: the least Python that carries commands from a guest's ring to a device's and acks back.

It believes the guest, judges nothing, remembers nothing, logs nothing, has no
deadline and takes one batch at a time.  What the daemon costs beyond this is
the price of all that.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from cvqd.testing.driver_ring import Buffer
from cvqd.wire.split_ring import DESC_NEXT, DESC_WRITE

if TYPE_CHECKING:
    from shared_guest import SharedGuest

    from cvqd.testing.device_driver import DeviceDriver

#: bytes of a private buffer: a command, and its ack in the last one
_BUFFER = 256


class BareRelay:
    """Between the control ring of ``guest`` and that of ``driver``'s device."""

    def __init__(self, guest: SharedGuest, driver: DeviceDriver) -> None:
        assert driver.commands is not None
        self._guest = guest
        self._ring = guest.ring
        self._private = driver.commands
        self._buffers = [driver.control.allocate(_BUFFER) for _ in range(driver.commands.num // 2)]
        self._views = [driver.control.view(buffer, _BUFFER) for buffer in self._buffers]
        self._next = 0

    async def run(self) -> None:
        """Relay until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._guest.kick)
            os.eventfd_read(self._guest.kick)
            while taken := self._submit():
                self._private.kick()
                for _ in taken:
                    await self._private.wait()
                self._answer(taken)

    def _submit(self) -> list[tuple[int, memoryview]]:
        """Copy what the guest published into private buffers; each head, and where its ack belongs."""
        taken: list[tuple[int, memoryview]] = []
        while self._ring.available_index != self._next & 0xFFFF and len(taken) < len(self._buffers):
            head = index = self._ring.available_head(self._next)
            self._next += 1
            command, flags, ack = b"", DESC_NEXT, memoryview(b"")
            while flags & DESC_NEXT:
                address, length, flags, index = self._ring.descriptor(index)
                if flags & DESC_WRITE:
                    ack = self._guest.view(address, length)
                else:
                    command += self._guest.view(address, length)
            buffer = self._buffers[len(taken)]
            self._views[len(taken)][: len(command)] = command
            self._private.add([Buffer(buffer, len(command)), Buffer(buffer + _BUFFER - 1, 1, writable=True)])
            taken.append((head, ack))
        return taken

    def _answer(self, taken: list[tuple[int, memoryview]]) -> None:
        """Copy acks to the guest and call it."""
        used = self._ring.used_index
        for place, (head, ack) in enumerate(taken):
            ack[0] = self._views[place][_BUFFER - 1]
            self._ring.put_used(used + place, head, 1)
        self._ring.used_index = used + len(taken)
        os.eventfd_write(self._guest.call, 1)
