"""From commands to state: what was submitted, in order, and the state that the answers lead to.

The device executes its control queue in order, so state is the fold of the
acknowledged commands *in the order they were submitted*, even if an answer
comes late.  While an expired command has no answer, the state is
``uncertain``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.wire.net_control import AnnounceAck

if TYPE_CHECKING:
    from cvqd.core.tracked import Change, TrackedState
    from cvqd.wire.net_control import Command


class _Entry:
    __slots__ = ("acked", "command", "settled")

    def __init__(self, command: Change) -> None:
        self.command: Change = command
        self.settled = False
        self.acked = False


class Ledger:
    """Submitted commands in order, and the state that their answers lead to.

    Each command has an id of its own, higher than all before.  ``state`` changes only when an answer
    is OK.
    """

    #: commands remembered; beyond that the oldest, still unanswered, is given up as lost
    DEPTH = 1024

    def __init__(self, state: TrackedState) -> None:
        self.state = state
        self._settled = state
        self._entries: dict[int, _Entry] = {}
        #: number of answered entries that wait behind an unanswered one
        self._ahead = 0
        #: highest id that was acknowledged
        self._latest = -1
        self._expired: set[int] = set()
        self._lost = False
        self._fresh: list[tuple[int, Change]] = []

    @property
    def uncertain(self) -> bool:
        """Whether the device may have executed a command whose answer is unknown."""
        return self._lost or bool(self._expired)

    @property
    def settled(self) -> TrackedState:
        """State before the oldest unanswered command; ``state`` is this with ``ahead`` applied."""
        return self._settled

    def ahead(self) -> list[tuple[int, Change]]:
        """Acknowledged commands that wait behind an unanswered one, with their ids."""
        return [(id_, entry.command) for id_, entry in self._entries.items() if entry.acked]

    def unanswered(self) -> list[Change]:
        """Commands that the device has, expired ones included."""
        return [entry.command for entry in self._entries.values() if not entry.settled]

    def take_fresh(self) -> list[tuple[int, Change]]:
        """Id and command of each acknowledgement since the last call.

        The id gives the command's place in the order of submission, which need not be that of answers.
        """
        fresh, self._fresh = self._fresh, []
        return fresh

    def submitted(self, command_id: int, command: Command) -> None:
        """Note that the device has the command."""
        self._entries[command_id] = _Entry(command)
        if len(self._entries) > self.DEPTH:
            self.lost(next(iter(self._entries)))

    def give_up(self) -> bool:
        """Give up the oldest expired command as lost; False if there is none."""
        oldest = next((id_ for id_ in self._entries if id_ in self._expired), None)
        if oldest is not None:
            self.lost(oldest)
        return oldest is not None

    def expired(self, command_id: int) -> None:
        """Note that the guest was told ERR while the device still has the command."""
        self._expired.add(command_id)

    def lost(self, command_id: int) -> None:
        """Note that the command's answer will never be known: the state is uncertain until a device reset."""
        self._lost = True
        self.answered(command_id, acked=False)

    def amended(self, command_id: int, change: Change) -> None:
        """Note that the command, once acknowledged, counts as ``change`` instead of what it asked for."""
        entry = self._entries.get(command_id)
        if entry is not None:
            entry.command = change

    def answered(self, command_id: int, *, acked: bool) -> TrackedState | None:
        """Settle a command; the new state if it changed, else None."""
        entry = self._entries.get(command_id)
        if entry is None or entry.settled:
            return None
        entry.settled, entry.acked = True, acked
        if acked:
            self._fresh.append((command_id, entry.command))
        self._ahead += 1
        self._expired.discard(command_id)
        before = self.state
        first = next(iter(self._entries))
        in_order = command_id > self._latest
        if acked:
            self._latest = max(self._latest, command_id)
        if first != command_id and (in_order or not acked):
            # an older command is unanswered, and no later one is acknowledged: nothing to settle or reorder
            if acked:
                self.state = before.after(entry.command)
            return self._changed(before)
        while self._ahead and self._entries[first].settled:
            oldest = self._entries.pop(first)
            self._ahead -= 1
            if oldest.acked:
                self._settled = self._settled.after(oldest.command)
            first = next(iter(self._entries), first)
        self.state = self._settled
        if self._ahead:
            for open_entry in self._entries.values():
                if open_entry.acked:
                    self.state = self.state.after(open_entry.command)
        return self._changed(before)

    def announced(self) -> None:
        """Note that the guest need not announce itself any more; the order among commands does not matter."""
        done = AnnounceAck()
        self._fresh.append((0, done))
        self._settled = self._settled.after(done)
        self.state = self.state.after(done)

    def widened(self, *, widened: bool) -> None:
        """Note whether the device, as it was brought up, receives everything in place of the tables."""
        self._settled = self._settled._replace(widened=widened)
        self.state = self.state._replace(widened=widened)

    def raise_announce(self) -> None:
        """Ask the guest to announce itself (the config space shows the bit until it does)."""
        for entry in self._entries.values():
            # an earlier announce.ack answers the earlier request only
            entry.acked = entry.acked and not isinstance(entry.command, AnnounceAck)
        self._settled = self._settled._replace(announce=True)
        self.state = self.state._replace(announce=True)

    def _changed(self, before: TrackedState) -> TrackedState | None:
        return self.state if self.state != before else None
