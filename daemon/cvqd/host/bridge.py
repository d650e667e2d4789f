"""Calls that are not eventfds: an eventfd of ours for the device, and a task that passes its signals on.

User Mode Linux waits for interrupts on pipes and sockets, or for messages on
the back-end channel; a vDPA device signals only eventfds.  This is the only
place where Python is in the data path, and ``status`` says for which queues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import trio

from cvqd.host.doorbell import Doorbell, DoorbellSet

if TYPE_CHECKING:
    from collections.abc import Callable

#: seconds until a signal that could not be delivered is tried again
_AGAIN: Final = 0.001


class CallBridge:
    """Passes on the signals of any number of eventfds."""

    def __init__(self) -> None:
        self._bells = DoorbellSet()
        self._routes: dict[int, tuple[Doorbell, Callable[[], bool]]] = {}

    def __len__(self) -> int:
        return len(self._routes)

    def add(self, deliver: Callable[[], bool]) -> int:
        """Eventfd to give to the device; ``deliver`` passes a signal on, or returns False to retry later."""
        bell = Doorbell()
        self._routes[bell.fileno()] = (bell, deliver)
        self._bells.add(bell.fileno())
        return bell.fileno()

    def remove(self, source: int) -> None:
        """Close the eventfd that ``add`` returned; the device must not use it any more."""
        bell, _ = self._routes.pop(source)
        self._bells.discard(source)
        bell.close()

    async def run(self) -> None:
        """Pass signals on until cancelled."""
        waiting: set[int] = set()
        while True:
            rung = await self._bells.wait(trio.current_time() + _AGAIN if waiting else None)
            waiting = {source for source in waiting.union(rung) if not self._pass_on(source)}

    def _pass_on(self, source: int) -> bool:
        route = self._routes.get(source)
        return route is None or route[1]()

    def close(self) -> None:
        """Close every eventfd."""
        for source in list(self._routes):
            self.remove(source)
        self._bells.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
