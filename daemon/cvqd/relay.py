"""The data flow of one control command, from the guest's kick to its answer.

    guest kick --> fetch: pop, decode
                   forward: judge --> refused, answered here, or submitted; one device kick
    device call -> collect: reap, or the deadline passed; tracked state follows
                   commit: what was acknowledged is kept for a restart, by one store
                   answer: in the guest's order; one guest call
                   tell: count and log, now that nobody waits

One task, woken by one set of doorbells, works in batches.  A step looks at
the rings and never at which doorbell rang, so a spurious wake-up costs only a
few comparisons.  Tracked state changes only when the device has acknowledged,
a command is judged before it is sent, and whatever the device does, the guest
gets its answer by the command's deadline.
"""

from __future__ import annotations

import itertools
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

import trio

from cvqd.core.address_tables import Tables, promiscuous
from cvqd.core.policy import Route
from cvqd.core.site_policy import EVERYTHING
from cvqd.core.state_keeper import NothingKept
from cvqd.errors import GuestError
from cvqd.telemetry.journal import Pending
from cvqd.wire.net_control import ACK, ERR, OK, Command, MacTableSet, RxModeSet, decode
from cvqd.wire.split_ring import MAX_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.core.ledger import Ledger
    from cvqd.core.policy import Policy
    from cvqd.core.queues.chain import Chain
    from cvqd.core.queues.shadow_queue import ShadowQueue
    from cvqd.core.site_policy import SitePolicy
    from cvqd.core.state_keeper import StateKeeper
    from cvqd.host.doorbell import DoorbellSet
    from cvqd.telemetry.journal import Journal

#: seconds without a doorbell after which log lines are written even while the guest waits for its device
SILENCE: Final = 0.001


class CommandQueue(Protocol):
    """Where commands come from: a ``GuestQueue``, or cvqd's own ``OwnQueue`` in its place."""

    def pop(self) -> Chain | None:
        """Next command, None if there is none now; GuestError if the queue is broken."""

    def push(self, chain: Chain, written: int) -> None:
        """Give a command back with its answer."""

    def publish(self) -> None:
        """Let the other side see every answer."""


class Relay:
    """Relays one guest's control queue; ``deadline`` in seconds, ``max_command`` in bytes.

    ``site`` and ``deadline`` may be replaced while it runs: a command keeps the deadline it had when it
    was popped and the judgement it had when it was sent.
    """

    def __init__(
        self,
        *,
        guest: CommandQueue,
        shadow: ShadowQueue,
        ledger: Ledger,
        policy: Policy,
        journal: Journal,
        deadline: float,
        max_command: int,
        kick_device: Callable[[], None],
        call_guest: Callable[[], None],
        site: SitePolicy = EVERYTHING,
        suspect: Callable[[], None] = lambda: None,
        kept: StateKeeper | None = None,
    ) -> None:
        self.site = site
        self.deadline = deadline
        self._guest = guest
        self._shadow = shadow
        self._ledger = ledger
        self._kept = kept or NothingKept()
        self._policy = policy
        self._journal = journal
        self._max_command = max_command
        self._kick_device = kick_device
        self._call_guest = call_guest
        #: called at every sign that the device may have failed
        self._suspect = suspect
        self._ids = itertools.count(1)
        self._guest_broken = False
        self._turn: trio.Event | None = None
        #: popped and not answered, in the guest's order; the second holds those not yet judged
        self._open: deque[Pending] = deque()
        self._unsent: deque[Pending] = deque()
        self._tables = Tables(ledger)
        #: with the device, expired ones included
        self._sent: dict[int, Pending] = {}

    async def run(self, doorbells: DoorbellSet) -> None:
        """Step whenever the guest kicks, the device calls or a deadline passes, until cancelled."""
        silent = False
        while True:
            now = trio.current_time()
            more = self.step(now)
            if self._turn is not None and not (self._open and self._open[0].deadline <= now):
                self.end_turn()
            until = self._next_deadline()
            if until is None or silent or self._journal.behind:
                self._journal.tell(doorbells.rang)
                if until is None:
                    self._kept.tidy(self._ledger)
            else:
                # the guest is waiting: logging can wait too, but not for a whole deadline
                until = min(until, now + SILENCE)
            silent = not await doorbells.wait(0 if more else until)

    def next_turn(self) -> trio.Event:
        """Event set at the end of the next turn of ``run`` that leaves no command past its deadline."""
        if self._turn is None:
            self._turn = trio.Event()
        return self._turn

    def end_turn(self) -> None:
        """Wake everyone who waits for a turn to end."""
        if self._turn is not None:
            self._turn.set()
            self._turn = None

    async def drain(self, doorbells: DoorbellSet, patience: float = inf) -> None:
        """Answer every command that was popped and fetch no more.  ``run`` must have ended.

        Takes one deadline at most; after ``patience`` seconds every deadline counts as passed.
        """
        end = trio.current_time() + patience
        while self._open:
            until = self._next_deadline()
            await doorbells.wait(end if until is None else min(end, until))
            now = trio.current_time()
            self.step(now if now < end else inf, fetch=False)
        self._journal.tell()

    def turn_away(self) -> None:
        """After ``drain``: answer ERR to whatever the guest still sends, as there is no device any more."""
        gone = GuestError("device.removed", "there is no device any more")
        # bounded: even a guest that never stops sending gets no more answers than a ring can hold
        for _ in range(MAX_SIZE // self._shadow.slots):
            more = self._fetch(inf)
            while self._unsent:
                pending = self._unsent.popleft()
                if pending.ack is None:
                    pending.refuse(gone)
            self._answer()
            if not more:
                break
        self._journal.tell()

    def step(self, now: float, *, fetch: bool = True) -> bool:
        """Do what can be done now; True if the guest may have more commands and there is room for them."""
        full = self._fetch(now) if fetch else False
        # answers first: a command may be waiting for one, and no doorbell would ring for it again
        self._collect(now)
        self._forward(now)
        self._kept.commit(self._ledger)
        self._answer()
        return full and len(self._open) < self._shadow.slots

    def _fetch(self, now: float) -> bool:
        """Pop and decode until the guest has no more or there is no room; True if it may have more."""
        while len(self._open) < self._shadow.slots:
            try:
                chain = None if self._guest_broken else self._guest.pop()
            except GuestError as error:
                self._guest_broken = True
                self._journal.broken(error)
                return False
            if chain is None:
                return False
            data = chain.read(self._max_command + 1)
            pending = Pending(next(self._ids), chain, data, now + self.deadline)
            try:
                pending.command = self._decode(chain, data)
            except GuestError as error:
                pending.refuse(error)
            self._journal.received(pending)
            self._open.append(pending)
            self._unsent.append(pending)
        return True

    def _decode(self, chain: Chain, data: bytes) -> Command:
        if chain.fault is not None:
            raise chain.fault
        if not chain.writable:
            chain.fault = GuestError("chain.no_answer", "no byte for the status")
            raise chain.fault
        if len(data) > self._max_command:
            raise GuestError("command.too_long", f"more than {self._max_command} bytes")
        return decode(data)

    def _forward(self, now: float) -> None:
        """Judge commands in order and submit those that are allowed, with one kick for all."""
        while self._unsent:
            pending = self._unsent[0]
            if pending.ack is None and pending.command is not None:
                if pending.deadline <= now:
                    pending.expire()
                elif not self._send(pending, pending.command):
                    break
            self._unsent.popleft()
        if self._shadow.publish():
            self._kick_device()

    def _send(self, pending: Pending, command: Command) -> bool:
        """Judge one command and submit, answer or refuse it; False if it has to wait for others."""
        table = isinstance(command, MacTableSet)
        if self._tables.busy or ((table or self._policy.waits(command)) and self._shadow.in_flight):
            return False
        try:
            route = self._policy.judge(command, self._ledger.state)
            self.site.judge(command)
        except GuestError as refusal:
            pending.refuse(refusal)
            return True
        if route is Route.LOCAL and not (isinstance(command, RxModeSet) and self._tables.doubtful):
            if not self._kept.reserve(len(pending.data), self._ledger):
                return False
            pending.ack = OK
            # it takes its place in order among the commands that the device still has
            self._ledger.submitted(pending.id, command)
            pending.state = self._ledger.answered(pending.id, acked=True)
            return True
        answer, data = command.answer_length, pending.data
        if answer > ACK:
            answer = min(answer, pending.chain.writable_length)
            data = self._policy.for_device(command, data)
        # room in the log is reserved now, so that nothing can come between the device's ack and the guest's
        if not self._shadow.takes(len(data)) or not self._kept.reserve(len(data), self._ledger):
            return False
        self._submit(pending.id, pending, data, answer)
        if table:
            self._tables.sent(pending)
        self._ledger.submitted(pending.id, command)
        self._journal.forwarded(pending)
        return True

    def _submit(self, token: int, pending: Pending, data: bytes, answer: int) -> None:
        self._shadow.submit(token, data, pending.deadline, answer)
        self._sent[token] = pending

    def _collect(self, now: float) -> None:
        """Take the device's answers; expire the commands whose deadline has passed."""
        for token, status, late, result in self._shadow.reap():
            pending = self._sent.pop(token)
            ack = status
            if isinstance(pending.command, MacTableSet) and (not late or pending.widens is not None):
                ack, mode = self._tables.settle(
                    pending, pending.command, ack, late=late, may_widen=self.site.promiscuous
                )
                if mode is not None:
                    self._submit(next(self._ids), pending, promiscuous(mode), ACK)
                    continue
            pending.ack = ERR if ack is None else ack
            if result:
                pending.result = self._policy.for_guest(pending.command, result)
            if ack is None:
                # given back without a status: no telling whether it was executed
                self._ledger.lost(pending.id)
            else:
                pending.state = self._ledger.answered(pending.id, acked=ack == OK)
            if late:
                self._journal.late(pending)
        for token in self._shadow.expire(now):
            pending = self._sent[token]
            pending.expire()
            self._tables.abandon(pending)
            self._ledger.expired(pending.id)
            self._suspect()
        for reason, detail in self._shadow.take_faults():
            self._journal.fault(reason, detail)
            self._suspect()

    def _answer(self) -> None:
        """Give commands back in order, up to the first that has no answer yet."""
        if not self._open or self._open[0].ack is None:
            return
        while self._open and (ack := self._open[0].ack) is not None:
            pending = self._open.popleft()
            written = pending.chain.write(bytes((ack,)) + pending.result)
            self._guest.push(pending.chain, written)
            pending.chain.release()
            self._journal.answered(pending)
        self._guest.publish()
        self._call_guest()

    def _next_deadline(self) -> float | None:
        unsent = self._unsent[0].deadline if self._unsent else None
        deadlines = [moment for moment in (self._shadow.deadline, unsent) if moment is not None]
        return min(deadlines, default=None)
