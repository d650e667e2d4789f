"""SIGHUP: the configuration file is read again, and what can change in a running daemon does.

The file decides as a whole: one with a mistake changes nothing.  Of a good one
the live keys take effect from the guest's next command on; the others are named
and stay as they were, so that each further reload names them again until the
daemon is started anew.
"""

from __future__ import annotations

import signal
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import trio

from cvqd.config import LIVE, load
from cvqd.errors import ConfigError
from cvqd.events import EventLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cvqd.config import Config
    from cvqd.host.notify import Notifier
    from cvqd.owner.owner import Owner


class LeveledLog(EventLog, Protocol):
    """A log whose level can change while it runs."""

    def set_level(self, level: str) -> None:
        """Change the level."""


class Reloader:
    """Keeps the configuration that is in effect; ``file`` is where it came from.

    From ``listening`` on, each signal is followed; the service manager hears of it.
    """

    def __init__(self, file: str, config: Config, owner: Owner, log: LeveledLog, notifier: Notifier) -> None:
        self.config = config
        self.listening = trio.Event()
        self._notifier = notifier
        self._file = file
        self._owner = owner
        self._log = log

    async def follow(self) -> None:
        """Reload at each SIGHUP; those that come while a reload is under way become one more."""
        with trio.open_signal_receiver(signal.SIGHUP) as hangups:
            self.listening.set()
            async for _ in hangups:
                await self.reload()

    async def reload(self) -> None:
        """Read the file, let what can change take effect, say what did and what did not."""
        await self._notifier.reloading()
        try:
            # parsing takes as long as an operator likes, and commands are waiting meanwhile
            # or for ever, on a file system that hangs: an end does not wait for that
            config = await trio.to_thread.run_sync(load, self._file, abandon_on_cancel=True)
        except ConfigError as error:
            self._log.emit("service.reload_failed", problems=error.problems)
        else:
            self._change_to(config)
        await self._notifier.ready()

    def _change_to(self, config: Config) -> None:
        keys = list(differences(self.config, config))
        live = [key for key in keys if _is_live(key)]
        fixed = [key for key in keys if key not in live]
        self._take(config)
        self._log.emit("service.reloaded", changed=live)
        if fixed:
            self._log.emit("service.reload_refused", keys=fixed, reason="read only when the daemon starts")
        self._owner.check_site()

    def _take(self, config: Config) -> None:
        current = self.config
        self.config = replace(
            current,
            policy=config.policy,
            control_queue=replace(current.control_queue, deadline=config.control_queue.deadline),
            log=replace(current.log, level=config.log.level),
        )
        self._owner.amend(site=config.policy, deadline=config.control_queue.deadline)
        self._log.set_level(config.log.level)


def differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Dotted keys whose values differ; where the kind of a value does, its key stands for all below it."""
    if old == new:
        return
    if is_dataclass(old) and type(old) is type(new):
        for entry in fields(old):
            below = f"{key}.{entry.name}" if key else entry.name
            yield from differences(getattr(old, entry.name), getattr(new, entry.name), below)
    else:
        yield key


def _is_live(key: str) -> bool:
    return any(key == live or key.startswith(f"{live}.") for live in LIVE)
