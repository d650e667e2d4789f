"""What a signal asks of a running daemon: to end, or to tell the log how it is; SIGHUP is ``reload``'s."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from cvqd.events import EventLog
    from cvqd.host.notify import Notifier

_ENDING: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def ending() -> Iterator[AsyncIterator[int]]:
    """Signals that ask for the end, for ``await_end``; open until it has come, and ignored from then on."""
    early: list[int] = []
    for ends in _ENDING:
        # trio puts this back at the end and delivers what nobody took: a second signal right behind the first
        signal.signal(ends, lambda number, _: early.append(number))
    try:
        with trio.open_signal_receiver(*_ENDING) as signals:
            for number in early:
                signal.raise_signal(number)
            yield signals
    finally:
        _ignore()


async def await_end(
    signals: AsyncIterator[int],
    scope: trio.CancelScope,
    notifier: Notifier,
    within: Callable[[], float],
    log: EventLog,
) -> None:
    """Cancel ``scope`` at the first signal; the service manager hears first that it may take ``within`` s."""
    number = await anext(signals)
    # once is enough: what is in flight is being answered, and a second one must not cut that off
    _ignore()
    name = signal.Signals(number).name
    log.emit("service.stopping", signal=name)
    await notifier.stopping(f"ends after {name}", within=within())
    scope.cancel()


def _ignore() -> None:
    for ends in _ENDING:
        signal.signal(ends, signal.SIG_IGN)


async def report(status: Callable[[], Mapping[str, object]], log: EventLog) -> None:
    """Put the whole status into the log at each SIGUSR1, until cancelled."""
    with trio.open_signal_receiver(signal.SIGUSR1) as asked:
        async for _ in asked:
            log.emit("status.reported", status=status())
