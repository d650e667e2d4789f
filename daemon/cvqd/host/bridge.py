"""Call descriptors that are no eventfds: an eventfd of ours for the device, and a task that passes it on.

User Mode Linux listens for interrupts on pipes and sockets, a vDPA device
signals eventfds only.  This is the one place where the data path meets
Python, and ``status`` says for which queues.
"""

from __future__ import annotations

from typing import Self

from cvqd.host.doorbell import Doorbell, DoorbellSet, ring


class CallBridge:
    """Passes the signals of any number of eventfds on to borrowed descriptors."""

    def __init__(self) -> None:
        self._bells = DoorbellSet()
        self._routes: dict[int, tuple[Doorbell, int]] = {}

    def __len__(self) -> int:
        return len(self._routes)

    def add(self, target: int) -> int:
        """Eventfd to give the device in place of ``target``."""
        bell = Doorbell()
        self._routes[bell.fileno()] = (bell, target)
        self._bells.add(bell.fileno())
        return bell.fileno()

    def remove(self, source: int) -> None:
        """Close the eventfd that ``add`` returned; the device must have let go of it."""
        bell, _ = self._routes.pop(source)
        self._bells.discard(source)
        bell.close()

    async def run(self) -> None:
        """Pass signals on until cancelled."""
        while True:
            for source in await self._bells.wait():
                route = self._routes.get(source)
                if route is not None:
                    ring(route[1])

    def close(self) -> None:
        """Close every eventfd."""
        for source in list(self._routes):
            self.remove(source)
        self._bells.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
