"""What becomes of address tables that the device does not take.

Filtering is best effort, and a device given too many addresses may switch to
promiscuous mode (virtio 1.3 §5.1.6.5.2).  One that answers ERR instead is told
to: the guest gets OK and every frame it asked for, the tables stay in the
tracked state, and a warning says so.  The mode that the guest asked for comes
back with the first tables that fit.

Each takes a second command, and the guest waits for it.  Where its deadline
passes the guest has had an ERR, and may have gone on: what an answer says then
counts at the place where the device had the command, and no more than that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cvqd.core.tracked import TableKept
from cvqd.wire.net_control import OK, RxMode, RxModeSet

if TYPE_CHECKING:
    from cvqd.core.ledger import Ledger
    from cvqd.wire.net_control import MacTableSet


class SentTable(Protocol):
    """A command with a table; ``widens`` says whether the device receives everything instead, None before."""

    id: int
    widens: bool | None


class Tables:
    """Decides what follows the device's answer to a table, for one relay."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        #: tables that are with the device, or the command that follows them
        self._open: set[int] = set()
        #: whether a command that follows had no answer in time: what is known of the mode may be out of date
        self.doubtful = False

    @property
    def busy(self) -> bool:
        """Whether a table is not settled: a command behind it would overtake the one that may follow."""
        return bool(self._open)

    def sent(self, sent: SentTable) -> None:
        """Note that the device has a table, and nothing else that is unanswered."""
        self._open.add(sent.id)

    def abandon(self, sent: SentTable) -> None:
        """Stop waiting; an answer may still come."""
        self._open.discard(sent.id)
        self.doubtful = self.doubtful or sent.widens is not None

    def settle(
        self, sent: SentTable, table: MacTableSet, ack: int | None, *, late: bool, may_widen: bool
    ) -> tuple[int | None, int | None]:
        """Status byte for the guest, or the promiscuous mode (0, 1) that has to be set first.

        Without ``may_widen`` a refusal is the guest's to deal with.
        """
        self._open.discard(sent.id)
        if sent.widens is not None:
            if ack == OK and late and sent.widens:
                # the guest knows its table as refused, and its own modes may have come behind this one
                self._ledger.amended(sent.id, RxModeSet(RxMode.PROMISC, 1))
            elif ack == OK:
                self._ledger.amended(sent.id, TableKept(table, sent.widens))
                self.doubtful = self.doubtful and late
            # tables that fit were taken, even where the mode stays as wide as it was
            return (ack if sent.widens else OK), None
        state = self._ledger.state
        if ack is None or (ack == OK and not state.widened) or (ack != OK and not may_widen):
            return ack, None
        sent.widens = ack != OK
        wanted = 1 if sent.widens else state.rx >> RxMode.PROMISC & 1
        if wanted and state.widened and not self.doubtful:
            # promiscuous already; while it is, no command of the guest's changes that
            self._ledger.amended(sent.id, TableKept(table, sent.widens))
            return OK, None
        self._open.add(sent.id)
        return None, wanted


def promiscuous(on: int) -> bytes:
    """The command that follows."""
    return RxModeSet(RxMode.PROMISC, on).encode()
