"""How a device is brought up: from the guest's rings to relayed commands.

    plan       place the shadow queue's memory, make the doorbells
    bring up   start the device with only its control queue enabled, put the state back
    enable     let the data rings run; the device is the guest's from now on
    relay      take up the guest's commands

A start does all of it on the owner's device.  A move does it on another,
between steps of its own.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING

import trio

from cvqd.core import lifecycle
from cvqd.core.restore import replay_running
from cvqd.owner.run import Run
from cvqd.relay import Relay
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.virtio import feature_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cvqd.core.queues.guest_ring import GuestRing
    from cvqd.core.queues.shadow_queue import ShadowQueue
    from cvqd.events import EventLog
    from cvqd.owner.owned_device import OwnedDevice
    from cvqd.owner.owner import Owner
    from cvqd.relay import CommandQueue


class Launch:
    """Starts devices for the guest of one owner; the relay of a run lives in ``nursery``."""

    def __init__(self, owner: Owner, log: EventLog, nursery: trio.Nursery) -> None:
        self._owner = owner
        self._log = log
        self._nursery = nursery

    async def start(self, data: list[GuestRing], control: GuestRing | None, *, pairs: int = 1) -> None:
        """Start the owner's device on the guest's rings; after a DeviceError or GuestError it is reset.

        FrontendError if the state of a driver with other features was loaded.

        ``pairs`` is how many queue pairs are to run if the guest has no control queue to set it with.
        """
        owner = self._owner
        life, space = owner.life, owner.memory.space
        begun = monotonic_ns()
        life.check_features(owner.features)
        ring_format = RingFormat.of(owner.features)
        data = [self._data_resumed(ring, ring_format) for ring in data]
        control = control and self._resumed(control, ring_format)
        rings = [*data, *([control] if control else [])]
        # only a driver that starts over shows rings that were never used
        life.rings_are(initial=all(ring.initial(space, ring_format) for ring in rings))
        goes_on = life.kept.loaded is not None
        run = await self._all(data, control, pairs)
        if goes_on:
            # an earlier process may have been killed after publishing an answer, before calling the guest
            run.call_guest()
        self.tell_started(begun)

    async def start_again(self, run: Run, bases: Mapping[int, int]) -> None:
        """Restart a run that was ended and halted where its rings stand; after an error nothing runs."""
        await self._all(*run.rings_at(bases), self._owner.state.pairs)

    def tell_started(self, begun: int) -> None:
        """Say in the log that the device runs; ``begun`` is when its start began, in monotonic ns."""
        owner = self._owner
        if owner.run is not None:
            self._log.emit(
                "device.started",
                features=feature_names(owner.run.plan.features),
                pairs=owner.state.pairs,
                rings=sorted(owner.running),
                elapsed_us=(monotonic_ns() - begun) // 1000,
            )

    async def _all(self, data: list[GuestRing], control: GuestRing | None, pairs: int) -> Run:
        run = await self.plan(self._owner.current, data, control)
        try:
            await self.bring_up(run, pairs)
            await self.enable(run)
            self.relay(run)
        except BaseException:
            with trio.CancelScope(shield=True):
                await run.stop_device()
            raise
        return run

    # steps

    async def plan(self, device: OwnedDevice, data: list[GuestRing], control: GuestRing | None) -> Run:
        """A run on a device, still to be brought up and enabled; the caller stops it after an error."""
        await device.place_shadow()
        return Run(device, device.word(self._owner.features, self._owner.life.limits), data, control)

    async def bring_up(self, run: Run, pairs: int) -> None:
        """Start the run's device with only its control queue enabled, and put the driver's state back."""
        owner, device = self._owner, run.device
        # cvqd drives the device's control queue itself where the guest's is not ours to relay
        driven = owner.guest_cvq is None and run.queue is not None
        await lifecycle.bring_up(device.device, device.facts, device.mappings, device.isolation, run.plan)
        # a reset may unbind it (vduse_dev_reset, pds_vdpa_set_status); a change missed meanwhile is read next
        await device.device.set_config_call(owner.config_call)
        await device.read_config()
        await owner.life.restore(run, owner.features, pairs if driven else None)
        run.attach(owner.memory.space, owner.life.kept.note, self._new_relay)

    async def enable(self, run: Run) -> None:
        """Let the guest's data rings run; the run's device is the guest's from now on."""
        await lifecycle.enable_data(run.device.device, run.device.facts, run.plan)
        # a ring that is added later gets its values then: that is another start
        rings = {ring.index for ring in run.plan.data}
        commands = replay_running(self._owner.state, run.plan.features)
        await self._owner.life.put_back(run, [command for command in commands if command.queue in rings])
        self._owner.began(run)
        run.ring_all()

    def relay(self, run: Run) -> None:
        """Take up the commands of the guest whose data rings run."""
        self._owner.life.runs(self._owner.features)
        run.begin(self._nursery)

    def _resumed(self, control: GuestRing, ring_format: RingFormat) -> GuestRing:
        space = self._owner.memory.space
        said = control.settled(space, ring_format)
        found = said.resumed(space, ring_format, self._owner.life.kept.noted)
        if found.base != said.base:
            self._log.emit("cvq.resumed", base=found.base, said=said.base)
        return found

    def _data_resumed(self, ring: GuestRing, ring_format: RingFormat) -> GuestRing:
        space = self._owner.memory.space
        said = ring.settled(space, ring_format)
        found = said.resumed(space, ring_format)
        if found.base != said.base:
            self._log.emit("ring.resumed", queue=ring.index, base=found.base, said=said.base)
        return found

    def _new_relay(self, run: Run, guest: CommandQueue, shadow: ShadowQueue) -> Relay:
        owner = self._owner
        life = owner.life
        return Relay(
            guest=guest,
            shadow=shadow,
            ledger=life.ledger,
            policy=run.policy(owner.features, owner.guest_pairs),
            journal=owner.journal,
            deadline=life.limits.deadline,
            max_command=life.limits.max_command,
            kick_device=run.kick_device,
            call_guest=run.call_guest,
            site=life.site,
            suspect=owner.recovery.suspect,
            kept=life.kept,
        )
