"""Starts and stops the device as the session requires, and lends it the session's rings.

No single message of every front-end means that the device is to run: the start
rule is applied whenever something has changed.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING

from cvqd.core.queues.guest_ring import GuestRing
from cvqd.core.start_rule import Readiness, wants_start, wants_stop
from cvqd.errors import DeviceError
from cvqd.frontend import inband
from cvqd.owner.launch import Launch
from cvqd.owner.own_commands import pairs_of
from cvqd.wire.virtio import Feature, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    import trio

    from cvqd.core.session.session import Session
    from cvqd.events import EventLog
    from cvqd.frontend.call_descriptors import CallDescriptors
    from cvqd.frontend.idle_rings import IdleRings
    from cvqd.host.listener import Connection
    from cvqd.owner.owner import Owner
    from cvqd.wire.vhost_user import FileDescriptor


class Starter:
    """For one session; ``idle`` watches its rings while the device is stopped."""

    def __init__(
        self,
        session: Session,
        connection: Connection,
        owner: Owner,
        log: EventLog,
        calls: CallDescriptors,
        idle: IdleRings,
        nursery: trio.Nursery,
    ) -> None:
        self._session = session
        self._connection = connection
        self._owner = owner
        self._log = log
        self._calls = calls
        self._idle = idle
        self._launch = Launch(owner, log, nursery)

    @property
    def features(self) -> int:
        """The guest's features, without CTRL_VQ if its front-end keeps the control queue to itself."""
        kept = Feature.CTRL_VQ.mask if self._session.keeps_control_queue else 0
        return self._session.features & ~kept

    async def settle(self) -> None:
        """Start or stop the device if the session's state now calls for it."""
        owner = self._owner
        ready = self._readiness()
        if owner.running:
            if wants_stop(ready, owner.running):
                await self.stop("the front-end stopped every ring")
                owner.life.left()
            elif not ready.expected & ready.complete <= owner.running:
                await self.stop("a ring was completed while the device ran")
                await self._start(ready)
        elif wants_start(ready):
            await self._start(ready)
        elif not ready.first_pair <= ready.complete:
            owner.life.left()

    async def stop(self, reason: str, *, failed: bool = False) -> None:
        """Stop the device; the session's rings will go on where it stopped."""
        self.stopped(await self._owner.stop(reason, failed=failed))

    def stopped(self, bases: Mapping[int, int]) -> None:
        """Note that the device stopped; ``bases`` by ring, empty if it did not run."""
        for index, base in bases.items():
            self._session.rings[index].base = base
        self._idle.begin(ran=bool(bases))

    async def recover(self) -> None:
        """Reset a device that failed under its guest and start it again; DeviceError if that fails too."""
        owner = self._owner
        begun, reason = monotonic_ns(), await owner.ailment()
        while reason is not None:
            self._log.emit("device.needs_reset", reason=reason)
            owner.recovery.attempt(reason)
            await self.stop(reason, failed=True)
            try:
                await self._start(self._readiness())
            except DeviceError as error:
                reason = str(error)
                continue
            self._log.emit("device.recovered", elapsed_us=(monotonic_ns() - begun) // 1000)
            break

    def pairs(self) -> int:
        """Queue pairs that the front-end wants to run."""
        usable = {
            i for i, ring in self._session.rings.items() if ring.enabled and self._session.ring_usable(i)
        }
        return pairs_of(usable, self._owner.guest_pairs)

    def check_ring(self, index: int) -> None:
        """FrontendError for a ring that should run and has everything but memory behind its addresses.

        A front-end with STATUS says when it should: until then rings and memory may come in any order.
        """
        should = not self._session.status_negotiated or self._session.status & Status.DRIVER_OK
        if should and self._session.rings[index].enabled and self._session.ring_complete(index):
            self._session.guest_ring(index)

    def watch(self, old: FileDescriptor | None, new: FileDescriptor | None) -> None:
        """Note that a ring's kick descriptor was replaced."""
        self._idle.replace(old, None if self._owner.running else new)

    async def rebind(self, index: int) -> None:
        """Take in a ring's new descriptor, and close what stood in for the old one, running or not."""
        stand_in = self._calls.detach(index)
        try:
            if index not in self._owner.running:
                return
            if self._session.rings[index].kick is None:
                await self.stop(f"ring {index} has no kick any more")
                return
            await self._owner.rebind(self._guest_ring(index))
        finally:
            self._calls.close(stand_in)

    async def _start(self, ready: Readiness) -> None:
        self._owner.features = self.features
        rings = {index: self._guest_ring(index) for index in ready.complete & ready.expected}
        control = rings.pop(ready.cvq, None) if ready.cvq is not None else None
        self._idle.end()
        await self._launch.start([rings[index] for index in sorted(rings)], control, pairs=self.pairs())

    def _readiness(self) -> Readiness:
        return Readiness.of(
            self._session,
            cvq=self._owner.cvq_with(self.features),
            pairs=self._owner.guest_pairs,
            left=self._idle.left,
            kicked=self._idle.kicked,
            unread=self._connection.pending(),
        )

    def _guest_ring(self, index: int) -> GuestRing:
        ring = self._session.rings[index]
        assert ring.kick is not None
        return GuestRing(
            index,
            ring.num,
            self._session.guest_ring(index),
            ring.base,
            ring.kick.fileno(),
            self._calls.lend(
                index,
                ring.call,
                ours=index == self._owner.guest_cvq,
                message=inband.call(self._session, index) if self._session.inband else None,
            ),
        )
