"""The service manager's watchdog, fed by the relay.

A timer would only prove that timers run.  So before each sign of life the relay
has to complete a turn: it is woken by a doorbell, as by a device, and must come
round with no command left beyond its deadline.  A relay that waits for something
else, a loop that is held up and a turn that never ends all look the same from
here, and the manager ends the daemon with SIGABRT; the log then shows where it
was held up, see ``host.crash``.

An idle instance wakes up twice per watchdog time-out and for nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cvqd.events import EventLog
    from cvqd.host.notify import Notifier


async def feed(notifier: Notifier, pulse: Callable[[], Awaitable[None]], log: EventLog) -> None:
    """Notify the manager after each ``pulse``, until cancelled; return at once if it does not watch."""
    if notifier.watchdog is None:
        return
    # sd_watchdog_enabled(3) recommends half of the time-out; the other half is for the answer
    every = notifier.watchdog / 2
    while True:
        asked = trio.current_time()
        with trio.move_on_after(every / 2) as patience:
            await pulse()
        if patience.cancelled_caught:
            log.emit("watchdog.withheld", seconds=round(trio.current_time() - asked, 1))
            await pulse()
        await notifier.alive()
        await trio.sleep(every)
