"""Who keeps the state of a driver's life: what a life and its relay ask of it.

``state_log.StateLog`` keeps it for a restart; ``NothingKept`` stands in its
place where no state is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cvqd.core.kept_state import KeptState
    from cvqd.core.ledger import Ledger
    from cvqd.core.queues.packed_answers import PackedAnswers


class StateKeeper(Protocol):
    """How a driver's life and a relay have it kept."""

    path: str | None
    reason: str

    @property
    def noted(self) -> bytes:
        """The last answers of a packed control queue, ``PackedAnswers`` as bytes; none where it is empty."""

    @property
    def loaded(self) -> KeptState | None:
        """What another process left, until the first life of this one begins."""

    def begin(self, life: KeptState) -> None:
        """Keep this from now on: a device has been given the state of a driver's life."""

    def end(self) -> None:
        """Note that the life is over: no start may go on from it."""

    def reserve(self, length: int, ledger: Ledger) -> bool:
        """Make sure of room for a command of so many bytes; False if it has to wait for answers."""

    def commit(self, ledger: Ledger) -> None:
        """Keep what moved the state since the last call."""

    def tidy(self, ledger: Ledger) -> None:
        """Compact a log that has grown, if it is worth it; for a moment when nobody waits."""

    def compact(self, ledger: Ledger) -> None:
        """Keep what no command says."""

    def note(self, answers: PackedAnswers) -> None:
        """Keep what the control queue's ring is about to lose."""


class NothingKept:
    """No state is kept; ``reason`` says why."""

    loaded: KeptState | None = None
    path: str | None = None
    noted = b""

    def __init__(self, reason: str = "nobody asked for it") -> None:
        self.reason = reason

    def begin(self, life: KeptState) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def reserve(self, length: int, ledger: Ledger) -> bool:  # noqa: ARG002 -- there is always room
        """Always."""
        return True

    def commit(self, ledger: Ledger) -> None:
        """Forget it."""
        ledger.take_fresh()

    def tidy(self, ledger: Ledger) -> None:
        """Nothing."""

    def compact(self, ledger: Ledger) -> None:
        """Nothing."""

    def note(self, answers: PackedAnswers) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
