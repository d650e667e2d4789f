"""When a driver is called for used buffers: notification coalescing, virtio 1.3 §5.1.6.5.9.1.

For each data ring, packets and time are counted from the first packet for which
its driver was not called.  Used buffers are published at once; only the call is
held back.  The caller passes the time (seconds of any clock).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.wire.net_control import Coalescing


class Moderation:
    """Decides for rings by index; ``values`` returns the current parameters of a ring."""

    def __init__(self, values: Callable[[int], Coalescing]) -> None:
        self._values = values
        #: number of packets and the time of the first, for rings with a call held back
        self._held: dict[int, tuple[int, float]] = {}

    @property
    def next_due(self) -> float | None:
        """When to call ``due`` again, None if no call is held back."""
        return min((self._deadline(queue) for queue in self._held), default=None)

    def used(self, queue: int, packets: int, now: float) -> None:
        """Note published packets for which the driver was not called yet."""
        held, since = self._held.get(queue, (0, now))
        self._held[queue] = (held + packets, since)

    def due(self, now: float) -> list[int]:
        """Rings for which the driver has to be called now, by the current parameters."""
        due = [queue for queue, (packets, _) in self._held.items() if self._is_due(queue, packets, now)]
        for queue in due:
            del self._held[queue]
        return due

    def release(self, queue: int | None = None) -> list[int]:
        """Rings with a call held back, which is due at once; only ``queue`` if given."""
        released = [held for held in self._held if queue in (None, held)]
        for held in released:
            del self._held[held]
        return released

    def reset(self) -> None:
        """Drop the calls that are held back."""
        self._held.clear()

    def _is_due(self, queue: int, packets: int, now: float) -> bool:
        values = self._values(queue)
        if not values.packets or not values.usecs:
            return True
        return packets >= values.packets or now >= self._deadline(queue)

    def _deadline(self, queue: int) -> float:
        return self._held[queue][1] + self._values(queue).usecs / 1e6
