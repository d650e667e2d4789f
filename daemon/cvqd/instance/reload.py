"""SIGHUP: read the configuration file again and apply what can change in a running daemon.

A file with any mistake changes nothing.  In a good one the live keys take
effect from the guest's next command on; changes of other keys are logged and
not applied, and each further reload logs them again until the daemon is
restarted.
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
    """Keeps the configuration in effect; ``file`` is where it came from.

    Once ``listening`` is set each SIGHUP causes a reload, of which the service manager is notified.
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
        """Read the file, apply what can change, log what was applied and what was not."""
        await self._notifier.reloading()
        try:
            # in a thread: parsing a large file would hold up commands, and a file system may hang;
            # a shutdown does not wait for it
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
    """Dotted keys whose values differ; if their types do, the key stands for all below it."""
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
