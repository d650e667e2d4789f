"""One run of the device: everything that exists from a start to the next stop."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from errno import EIO
from typing import TYPE_CHECKING

import trio

from cvqd.core import lifecycle
from cvqd.core.lifecycle import RingPlan, StartPlan
from cvqd.core.policy import HashLimits, Policy
from cvqd.core.queues.guest_queue import GuestQueue
from cvqd.core.queues.guest_ring import GuestRing, used_index
from cvqd.errors import DeviceError
from cvqd.host import shared_memory
from cvqd.host.doorbell import Doorbell, DoorbellSet, ring
from cvqd.owner.own_commands import OwnQueue
from cvqd.wire import net_config
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cvqd.core.address_space import AddressSpace
    from cvqd.core.queues.packed_answers import PackedAnswers
    from cvqd.core.queues.shadow_queue import ShadowQueue
    from cvqd.core.site_policy import SitePolicy
    from cvqd.owner.owned_device import OwnedDevice
    from cvqd.relay import CommandQueue, Relay


class Run:
    """Doorbells, plan and relay of one run.

    The shadow queue's own doorbells are here; those of the guest's rings are lent to the device.
    """

    def __init__(
        self,
        device: OwnedDevice,
        features: int,
        data: Sequence[GuestRing],
        guest_cvq: GuestRing | None,
    ) -> None:
        """``features`` are those of the device; its shadow memory is placed."""
        self.device = device
        with ExitStack() as made:
            # any of them may fail for want of a descriptor
            self._kick, self._call, self._own_kick = (made.enter_context(Doorbell()) for _ in range(3))
            self.doorbells = made.enter_context(DoorbellSet())
            self.doorbells.add(self._call.fileno())
            made.pop_all()
        self._scope: trio.CancelScope
        #: cancelled when the device's answers are not waited for any longer
        self._patience: trio.CancelScope
        self._ended: trio.Event
        self._relay: Relay | None = None
        #: the guest's and the device's: feature words bind all rings
        self.format = RingFormat.of(features)
        # with event indices each queue writes what it waits for and then looks once more: a full fence
        self._fence = shared_memory.full_fence if self.format.event_index else shared_memory.fence
        self.guest: GuestQueue | None = None
        #: takes commands of our own where the guest has no control queue
        self.own: OwnQueue | None = None
        self.guest_cvq = guest_cvq
        control, cvq = None, device.isolation.cvq
        if cvq is not None:
            control = device.shadow.plan(cvq.index, self.format, self._kick.fileno(), self._call.fileno())
        self.plan = StartPlan(
            features,
            tuple(RingPlan(r.index, r.num, r.addresses, r.base, r.kick, r.call) for r in data),
            control,
        )
        self.queue: ShadowQueue | None = None
        if control is not None:
            self.queue = device.shadow.queue(self.format, self._fence)

    @property
    def rings(self) -> frozenset[int]:
        """Rings that run, by the guest's index."""
        own = {self.guest_cvq.index} if self.guest_cvq else set()
        return frozenset(own | {plan.index for plan in self.plan.data})

    def uses(self, start: int, size: int) -> bool:
        """Whether a ring lies in this range of guest memory."""
        parts = [part for plan in self.plan.data for part in plan.addresses]
        if self.guest_cvq is not None:
            parts += self.guest_cvq.addresses
        return any(start <= part < start + size for part in parts)

    def kick_device(self) -> None:
        """Ring the device's control queue."""
        self._kick.ring()

    def call_guest(self) -> None:
        """Ring the guest's control queue.

        Always: whether the guest wants it is a flag that could change while it is read, and a spurious
        call is legal (virtio 1.3 §2.7.7, §2.8.10).
        """
        if self.guest_cvq is not None and self.guest_cvq.call >= 0:
            ring(self.guest_cvq.call)

    def attach(
        self,
        memory: AddressSpace,
        note: Callable[[PackedAnswers], None],
        build: Callable[[Run, CommandQueue, ShadowQueue], Relay],
    ) -> None:
        """Take up the guest's control queue where it stands; GuestError if it cannot be read.

        Where it has none, ``own`` takes its place.
        """
        if self.queue is None:
            return
        if self.guest_cvq is None:
            self.own = OwnQueue(self._own_kick.ring)
            self._relay = build(self, self.own, self.queue)
            self.doorbells.add(self._own_kick.fileno())
            return
        own = self.guest_cvq
        self.guest = GuestQueue(
            own.open(memory, self.format),
            memory,
            self._fence,
            own.base,
            indirect=self.format.indirect,
            event_index=self.format.event_index,
            note=note,
        )
        self._relay = build(self, self.guest, self.queue)
        self.doorbells.add(own.kick)

    def rebind(self, own: GuestRing) -> None:
        """Note new descriptors of a ring; the old ones are still open."""
        if self.guest_cvq is not None and own.index == self.guest_cvq.index:
            self.doorbells.discard(self.guest_cvq.kick)
            self.guest_cvq = own
            self.doorbells.add(own.kick)
            # a kick of the old one that nobody has seen yet is lost with it
            self._call.ring()
            return
        data = tuple(
            plan if plan.index != own.index else replace(plan, kick=own.kick, call=own.call)
            for plan in self.plan.data
        )
        self.plan = replace(self.plan, data=data)

    def rings_at(self, bases: Mapping[int, int]) -> tuple[list[GuestRing], GuestRing | None]:
        """The guest's rings, data and control, with these bases; a ring without one as it began."""
        data = [
            GuestRing(
                plan.index, plan.num, plan.addresses, bases.get(plan.index, plan.base), plan.kick, plan.call
            )
            for plan in self.plan.data
        ]
        control = self.guest_cvq
        return data, control and replace(control, base=bases.get(control.index, control.base))

    def policy(self, guest_features: int, guest_pairs: int) -> Policy:
        """Rules for the guest's commands, or for cvqd's own where the guest has no control queue."""
        device = self.device
        data = {plan.index for plan in self.plan.data}
        return Policy(
            self.plan.features if self.guest_cvq is None else guest_features,
            guest_pairs,
            announces=bool(device.offer.emulated & Feature.GUEST_ANNOUNCE.mask),
            hashing=HashLimits.of(net_config.decode(device.config)),
            disabled=frozenset(range(2 * guest_pairs)) - data,
            device_cvq=device.offer.device_cvq_index,
            max_answer=device.shadow.max_answer,
        )

    def amend(self, site: SitePolicy, deadline: float) -> None:
        """Apply another site policy and deadline from the next command on."""
        if self._relay is not None:
            self._relay.site, self._relay.deadline = site, deadline

    def begin(self, nursery: trio.Nursery) -> None:
        """Relay the guest's commands until ``end``; may begin again after it."""
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._patience = trio.CancelScope()
        nursery.start_soon(self._relay_commands)

    async def _relay_commands(self) -> None:
        try:
            with self._scope:
                if self._relay is not None:
                    await self._relay.run(self.doorbells)
        finally:
            self._ended.set()
            if self._relay is not None:
                self._relay.end_turn()

    async def pulse(self) -> None:
        """Return when the relay has taken another turn, at once if nothing is relayed any more."""
        if self._relay is None or self._ended.is_set():
            await trio.lowlevel.checkpoint()
            return
        turn = self._relay.next_turn()
        # as the device would: a spurious call costs the relay a few comparisons
        self._call.ring()
        await turn.wait()

    def ring_all(self) -> None:
        """Kick and call every data ring: what rang before DRIVER_OK was lost."""
        for plan in self.plan.data:
            ring(plan.kick)
            if plan.call >= 0:
                ring(plan.call)

    async def end(self, patience: float, *, for_good: bool = False) -> None:
        """Stop relaying; every command that was popped is answered, within its deadline and ``patience``.

        ``for_good`` also answers those that were not popped: nobody will come for them.
        """
        self._scope.cancel()
        await self._ended.wait()
        if self._relay is not None:
            self.hurry(patience)
            with self._patience:
                await self._relay.drain(self.doorbells)
            if self._patience.cancelled_caught:
                await self._relay.drain(self.doorbells, 0)
            if for_good:
                self._relay.turn_away()

    def hurry(self, patience: float) -> None:
        """Have ``end``, even one under way, wait no more than ``patience`` seconds from now."""
        self._patience.deadline = min(self._patience.deadline, trio.current_time() + patience)

    def bases(self, reported: Mapping[int, int] | None, memory: AddressSpace) -> dict[int, int]:
        """Where each ring goes on, by the guest's index; ``reported`` is what the device said, if anything.

        DeviceError if only the device could know.
        """
        if reported is None:
            if self.format.packed:
                raise DeviceError(
                    "VHOST_GET_VRING_BASE", EIO, "nobody else knows where a packed ring stopped"
                )
            # the used index tells: what the device took and did not use it takes again
            reported = {
                plan.index: used_index(memory, plan.num, plan.addresses, self.format)
                for plan in self.plan.data
            }
        if self.guest_cvq is None:
            return dict(reported)
        base = self.guest_cvq.base if self.guest is None else self.guest.base
        return {**reported, self.guest_cvq.index: base}

    async def stop_device(self, *, failed: bool = False) -> dict[int, int] | None:
        """Stop the device and let go of everything; see ``lifecycle.stop``."""
        try:
            return await lifecycle.stop(self.device.device, self.device.facts, self.plan, failed=failed)
        finally:
            self.close()

    def close(self) -> None:
        """Close every descriptor; the device and the relay must have let go of them."""
        self.doorbells.close()
        self._kick.close()
        self._call.close()
        self._own_kick.close()
        # break the reference cycle: the relay keeps the guest's memory mapped
        self._relay = None
