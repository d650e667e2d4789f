"""Resetting a device that fails under its guest: what raises suspicion, and how often it is done.

A device says so itself (DEVICE_NEEDS_RESET and a configuration interrupt,
virtio 1.3 §2.1.2), or breaks its control queue so that no answer can be
followed any more.  Linux's network driver does nothing about the former, so a
guest that heard of it would be without a network until somebody reloads its
driver.  cvqd resets and puts the state back instead; the guest notices a pause
and an ERR for what was in flight.

A device that keeps failing is given up: after ``MOST`` resets within ``WINDOW``
seconds its front-end is hung up on.
"""

from __future__ import annotations

from collections import deque
from errno import EIO
from typing import TYPE_CHECKING, Final

import trio

from cvqd.errors import DeviceError
from cvqd.wire.virtio import Status

if TYPE_CHECKING:
    from cvqd.core.device import VdpaDevice
    from cvqd.core.queues.shadow_queue import ShadowQueue

MOST: Final = 3
WINDOW: Final = 60.0


class Recovery:
    """Suspicions about the running device, and the resets that followed; times are on trio's clock."""

    def __init__(self) -> None:
        self._suspected = trio.Event()
        self._resets: deque[float] = deque(maxlen=MOST)

    def suspect(self) -> None:
        """Note that something is odd: its configuration changed, or a command has no answer."""
        self._suspected.set()

    async def suspicion(self) -> None:
        """Wait until something was odd."""
        await self._suspected.wait()
        self._suspected = trio.Event()

    async def needed(self, device: VdpaDevice, queue: ShadowQueue | None) -> str | None:
        """Why a running device has to be reset, None if it need not be; ``queue`` is its control queue."""
        if await device.get_status() & Status.NEEDS_RESET:
            return "NEEDS_RESET"
        return "its control queue cannot be followed any more" if queue is not None and queue.broken else None

    def attempt(self, reason: str) -> None:
        """Count a reset that is about to be made; DeviceError if it is one too many."""
        now = trio.current_time()
        if len(self._resets) == MOST and now - self._resets[0] < WINDOW:
            raise DeviceError("recovery", EIO, f"{reason}, after {MOST} resets within {WINDOW:g} s")
        self._resets.append(now)
