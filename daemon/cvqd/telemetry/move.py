"""One move of a guest as the log and an operator see it: phases, blackout, outcome.

It knows no device.  Times are on the monotonic clock, shown in µs.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cvqd.events import EventLog

#: most rounds of one rehearsal
MOST_ROUNDS: Final = 1000

#: a switchover moves the guest, a dry move only checks whether it could be moved
Kind = Literal["switchover", "dry"]
#: where a move leaves the guest; after ``neither`` the next start is on the source
Place = Literal["source", "target", "neither"]

#: the guest notices nothing until this phase is over
PREPARE: Final = "prepare"


class Move:
    """``source`` and ``target`` are names of devices; ``digest`` is that of the state to be moved."""

    def __init__(self, log: EventLog, kind: Kind, source: str, target: str, digest: str) -> None:
        self.id: Final = os.urandom(4).hex()
        self.kind: Final = kind
        self.source: Final = source
        self.target: Final = target
        #: of the source's state; updated when its guest is stopped
        self.digest = digest
        #: digest of the state replayed to the target, and how many commands it took
        self.digest_after = ""
        self.commands = 0
        #: where the guest's rings stand, by index: empty until somebody has asked, None if nobody knows
        self.bases: dict[int, int] | None = {}
        #: why it failed
        self.error: Exception | None = None
        self.guest_on: Place = "source"
        self._log = log
        self._phase = ""
        self._phases: list[tuple[str, int]] = []
        self._dark_since = 0
        self._dark_until = 0
        log.emit("switchover.started", move=self.id, kind=kind, source=source, target=target, digest=digest)

    @property
    def refused(self) -> bool:
        """Whether it failed before anything happened to the guest."""
        return self.error is not None and self._phase in {"", PREPARE}

    @property
    def dark(self) -> bool:
        """Whether the data queues have been stopped, or were about to be."""
        return self._dark_since > 0

    @property
    def blackout_us(self) -> int:
        """From when no device served the data queues until one did again."""
        return max(0, self._dark_until - self._dark_since) // 1000

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; a phase that fails is not recorded."""
        self._phase = name
        begun = monotonic_ns()
        yield
        ended = monotonic_ns()
        self._phases.append((name, (ended - begun) // 1000))
        self._log.emit(
            "switchover.phase", mono_ns=ended, move=self.id, phase=name, elapsed_us=self._phases[-1][1]
        )

    def stops_serving(self, digest: str) -> None:
        """Note that the data queues are about to stop; the state, of this ``digest``, no longer changes."""
        self.digest = digest
        self._dark_since = self._dark_until = monotonic_ns()

    def serves(self) -> None:
        """Note that the data queues run again, if they had stopped."""
        if self.dark:
            self._dark_until = monotonic_ns()

    def failed(self, error: Exception, guest_on: Place) -> None:
        """Note the end of a move that failed."""
        self.error, self.guest_on = error, guest_on
        self._log.emit(
            "switchover.failed", move=self.id, phase=self._phase, reason=str(error), guest_on=guest_on
        )

    def finished(self) -> None:
        """Note the end of a move that succeeded."""
        self.guest_on = "source" if self.kind == "dry" else "target"
        self._log.emit(
            "switchover.finished",
            move=self.id,
            kind=self.kind,
            source=self.source,
            target=self.target,
            blackout_us=self.blackout_us,
            commands=self.commands,
            digest_before=self.digest,
            digest_after=self.digest_after,
        )

    def as_dict(self) -> dict[str, Any]:
        """For an operator."""
        outcome: dict[str, Any] = {"verdict": "passed"}
        if self.error is not None:
            verdict = "refused" if self.refused else "failed"
            outcome = {"verdict": verdict, "phase": self._phase, "reason": str(self.error)}
        return {
            "move": self.id,
            "kind": self.kind,
            "source": self.source,
            "target": self.target,
            **outcome,
            "guest_on": self.guest_on,
            "phases": [{"phase": phase, "elapsed_us": elapsed} for phase, elapsed in self._phases],
            "blackout_us": self.blackout_us,
            "commands": self.commands,
            "digest_before": self.digest,
            "digest_after": self.digest_after,
        }
