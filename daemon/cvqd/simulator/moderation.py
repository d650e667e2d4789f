"""When a driver is told of used buffers: notification coalescing, virtio 1.3 §5.1.6.5.9.1.

Each data ring counts packets and time since the first packet that its driver
was not told of.  Buffers are shown at once; only the call waits.  Time is
handed in (seconds of any clock).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.wire.net_control import Coalescing


class Moderation:
    """Decides for rings by index; ``values`` has the current parameters of one."""

    def __init__(self, values: Callable[[int], Coalescing]) -> None:
        self._values = values
        #: packets and the moment of the first, for rings whose driver waits
        self._held: dict[int, tuple[int, float]] = {}

    @property
    def next_due(self) -> float | None:
        """When ``due`` has to be asked again."""
        return min((self._deadline(queue) for queue in self._held), default=None)

    def used(self, queue: int, packets: int, now: float) -> None:
        """Note packets that the driver can see but was not told of."""
        held, since = self._held.get(queue, (0, now))
        self._held[queue] = (held + packets, since)

    def due(self, now: float) -> list[int]:
        """Rings whose driver has to be told now; also after parameters changed."""
        due = [queue for queue, (packets, _) in self._held.items() if self._is_due(queue, packets, now)]
        for queue in due:
            del self._held[queue]
        return due

    def release(self, queue: int | None = None) -> list[int]:
        """Rings (or the one) whose driver was not told yet, and now has to be."""
        released = [held for held in self._held if queue in (None, held)]
        for held in released:
            del self._held[held]
        return released

    def reset(self) -> None:
        """Tell nobody."""
        self._held.clear()

    def _is_due(self, queue: int, packets: int, now: float) -> bool:
        values = self._values(queue)
        if not values.packets or not values.usecs:
            return True
        return packets >= values.packets or now >= self._deadline(queue)

    def _deadline(self, queue: int) -> float:
        return self._held[queue][1] + self._values(queue).usecs / 1e6
