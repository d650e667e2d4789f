"""One running instance as seen from the control socket: its requests, and its streams.

Everything is read from the parts that do the work; nothing is kept here.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, Final, Protocol

from cvqd.events import CountingLog
from cvqd.host.control import Stream
from cvqd.owner import snapshots
from cvqd.telemetry.status import (
    SCHEMA,
    Phase,
    Status,
    commands_status,
    counters_status,
    device_status,
    frontend_status,
    isolation_status,
    state_status,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cvqd.frontend.backend import Backend
    from cvqd.host.control import Handler
    from cvqd.host.feed import Feed
    from cvqd.owner.owner import Owner
    from cvqd.telemetry.journal import Journal


#: ``how`` of a snapshot in the log
OPERATOR: Final = "operator"


class FollowedLog(CountingLog, Protocol):
    """A log that counts and can be followed."""

    @property
    def feed(self) -> Feed:
        """The lines as they are written, as JSON."""


class Instance:
    """``name`` is the configuration file's stem; ``started`` in seconds since 1970."""

    def __init__(self, name: str, owner: Owner, backend: Backend, journal: Journal, log: FollowedLog) -> None:
        self.name: Final = name
        self.started: Final = time.time()
        self._owner = owner
        self._backend = backend
        self._journal = journal
        self._log = log

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """Requests of the control socket, by name."""
        return {
            "status": self._answer_status,
            "metrics": self._metrics,
            "announce": self._announce,
            "snapshot": self._snapshot,
            "restore": self._restore,
        }

    @property
    def streams(self) -> Mapping[str, Stream]:
        """Streams of the control socket, by name: log lines, and commands with their bytes."""
        return {
            "follow": Stream(self._begin, self._log.feed),
            "trace": Stream(self._begin, self._journal.trace),
        }

    def status(self) -> Status:
        """Everything that is known now."""
        # a busy guest's last commands may not be counted yet
        self._journal.tell()
        owner, backend = self._owner, self._backend
        owned = owner.current
        phase: Phase = "running" if owner.running else "connected" if backend.connected else "waiting"
        return {
            "schema": SCHEMA,
            "instance": self.name,
            "phase": phase,
            "device": device_status(owned.device.kind, owned.device.path, owned.facts, owned.offer),
            "frontend": frontend_status(owner.features if backend.connected else None, backend.bridged),
            "isolation": isolation_status(owned.isolation),
            "state": state_status(owner.state, uncertain=owner.life.ledger.uncertain),
            "state_log": {"path": owner.life.kept.path, "reason": owner.life.kept.reason},
            "counters": counters_status(self._journal, quarantined=owner.quarantined),
            "commands": commands_status(self._journal.recent),
        }

    async def _answer_status(self, _: dict[str, Any]) -> Status:
        return self.status()

    async def _metrics(self, _: dict[str, Any]) -> dict[str, Any]:
        # loaded only in an instance that is asked for metrics
        from cvqd.instance.readings import read  # noqa: PLC0415
        from cvqd.telemetry.metrics import render  # noqa: PLC0415

        readings = read(self._owner, self._backend, self._journal, self._log, started=self.started)
        return {"schema": SCHEMA, "instance": self.name, "text": render(self.name, readings)}

    async def _announce(self, _: dict[str, Any]) -> dict[str, Any]:
        await self._backend.announce()
        return {}

    async def _snapshot(self, _: dict[str, Any]) -> dict[str, Any]:
        async with self._backend.quiet() as session:
            await self._owner.read_config()
            data = snapshots.save(self._owner, session.rings if session else {}, self._log, OPERATOR)
        return {"schema": SCHEMA, "instance": self.name, "snapshot": b64encode(data).decode()}

    async def _restore(self, request: dict[str, Any]) -> dict[str, Any]:
        text = request.get("snapshot")
        try:
            data = b64decode(text, validate=True) if isinstance(text, str) else b""
        except ValueError:
            data = b""
        async with self._backend.quiet():
            snapshots.load(self._owner, data, self._log, OPERATOR)
        return {}

    async def _begin(self, _: dict[str, Any]) -> dict[str, Any]:
        """The first line of a stream."""
        return {"schema": SCHEMA, "instance": self.name, "device": self._owner.current.device.path}
