"""The keeper of a driver's life: what the life and its relay need to have its state persisted.

``owner.state_log.StateLog`` keeps it for a restart; ``NothingKept`` takes its
place if no state is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cvqd.core.kept_state import KeptState
    from cvqd.core.ledger import Ledger
    from cvqd.core.queues.packed_answers import PackedAnswers


class StateKeeper(Protocol):
    """Persists the state of a driver's life."""

    path: str | None
    reason: str

    @property
    def noted(self) -> bytes:
        """The last answers of a packed control queue, ``PackedAnswers`` as bytes; empty if there are none."""

    @property
    def loaded(self) -> KeptState | None:
        """The state that an earlier process left; None once a life begins in this one."""

    def begin(self, life: KeptState) -> None:
        """Keep this life from now on: its state has been replayed to a device."""

    def end(self) -> None:
        """Note that the life is over: no later start may continue it."""

    def reserve(self, length: int, ledger: Ledger) -> bool:
        """Reserve room for a command of ``length`` bytes; False if it has to wait for answers first."""

    def commit(self, ledger: Ledger) -> None:
        """Keep the commands that were acknowledged since the last call."""

    def tidy(self, ledger: Ledger) -> None:
        """Compact the log if that is worth it; called when no guest waits."""

    def compact(self, ledger: Ledger) -> None:
        """Replace the commands by the shorter list that leads to the same state, announce bit included."""

    def note(self, answers: PackedAnswers) -> None:
        """Keep the descriptors that answers are about to overwrite in the control queue's ring."""


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
