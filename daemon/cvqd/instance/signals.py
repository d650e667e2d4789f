"""Signals to a running daemon: to end, or to log its status; SIGHUP is in ``reload``."""

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
    """SIGTERM and SIGINT for ``await_end``, also those that came early; ignored after the block."""
    early: list[int] = []
    for ends in _ENDING:
        # trio restores this handler at the end and gives it what nobody took: a second signal right behind
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
    """Cancel ``scope`` at the first signal; before, tell the manager that the end may take ``within`` s."""
    number = await anext(signals)
    # commands in flight are being answered: a second signal must not cut that off
    _ignore()
    name = signal.Signals(number).name
    log.emit("service.stopping", signal=name)
    await notifier.stopping(f"ends after {name}", within=within())
    scope.cancel()


def _ignore() -> None:
    for ends in _ENDING:
        signal.signal(ends, signal.SIG_IGN)


async def report(status: Callable[[], Mapping[str, object]], log: EventLog) -> None:
    """Log the whole status at each SIGUSR1, until cancelled."""
    with trio.open_signal_receiver(signal.SIGUSR1) as asked:
        async for _ in asked:
            log.emit("status.reported", status=status())
