"""What happens to address tables that the device refuses.

Filtering is best effort, and a device given too many addresses may switch to
promiscuous mode (virtio 1.3 §5.1.6.5.2).  A device that answers ERR instead is
switched by cvqd: the guest gets OK and every frame it asked for, the tables
stay in the tracked state, and a warning says so.  The first tables that fit
bring back the mode that the guest asked for.

Either switch takes a second command, and the guest waits for it.  If the
deadline passes, the guest has been told ERR and may have sent more commands: a
late answer then counts only at the command's own place in the order of
submission.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cvqd.core.tracked import TableKept
from cvqd.wire.net_control import OK, RxMode, RxModeSet

if TYPE_CHECKING:
    from cvqd.core.ledger import Ledger
    from cvqd.wire.net_control import MacTableSet


class SentTable(Protocol):
    """A command with a table; ``widens`` says whether the device receives everything instead.

    It is None until that is decided.
    """

    id: int
    widens: bool | None


class Tables:
    """Decides what follows the device's answer to a table, for one relay."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        #: ids of tables for which the device still owes an answer, to the table or to the second command
        self._open: set[int] = set()
        #: a second command was not answered in time, so the mode we know of may be out of date
        self.doubtful = False

    @property
    def busy(self) -> bool:
        """Whether a table is unsettled: any other command would overtake the second one it may need."""
        return bool(self._open)

    def sent(self, sent: SentTable) -> None:
        """Note that the device has been given a table and has no other command in flight."""
        self._open.add(sent.id)

    def abandon(self, sent: SentTable) -> None:
        """Stop waiting; an answer may still come."""
        self._open.discard(sent.id)
        self.doubtful = self.doubtful or sent.widens is not None

    def settle(
        self, sent: SentTable, table: MacTableSet, ack: int | None, *, late: bool, may_widen: bool
    ) -> tuple[int | None, int | None]:
        """Status byte for the guest, or the promiscuous mode (0, 1) that has to be set first.

        Without ``may_widen`` a refusal is passed on to the guest.
        """
        self._open.discard(sent.id)
        if sent.widens is not None:
            if ack == OK and late and sent.widens:
                # the guest was told that its table was refused, and may have set modes of its own since
                self._ledger.amended(sent.id, RxModeSet(RxMode.PROMISC, 1))
            elif ack == OK:
                self._ledger.amended(sent.id, TableKept(table, sent.widens))
                self.doubtful = self.doubtful and late
            # tables that fit were accepted, even if the device could not be narrowed again
            return (ack if sent.widens else OK), None
        state = self._ledger.state
        if ack is None or (ack == OK and not state.widened) or (ack != OK and not may_widen):
            return ack, None
        sent.widens = ack != OK
        wanted = 1 if sent.widens else state.rx >> RxMode.PROMISC & 1
        if wanted and state.widened and not self.doubtful:
            # the device is promiscuous already, and no command of the guest can change that now
            self._ledger.amended(sent.id, TableKept(table, sent.widens))
            return OK, None
        self._open.add(sent.id)
        return None, wanted


def promiscuous(on: int) -> bytes:
    """Bytes of the second command: set promiscuous mode to ``on`` (0, 1)."""
    return RxModeSet(RxMode.PROMISC, on).encode()
