"""The owner of one device: from negotiated features and rings to a device that runs, and back.

It keeps what outlives a front-end and a device: guest memory and the driver's
life.  What is true of one device only is ``owned_device``'s.  It knows rings
and memory but no vhost-user message; those are ``conversation``'s.
"""

from __future__ import annotations

from dataclasses import replace
from errno import EIO
from math import inf
from time import monotonic_ns
from typing import TYPE_CHECKING

import trio

from cvqd.core import lifecycle
from cvqd.core.restore import replay, replay_running
from cvqd.driver_life import DriverLife
from cvqd.errors import DeviceError, RequestError
from cvqd.guest_memory import GuestMemory
from cvqd.owned_device import tell_failed
from cvqd.recovery import Recovery
from cvqd.relay import Relay
from cvqd.run import Run
from cvqd.state_log import NothingKept
from cvqd.wire import net_config
from cvqd.wire.net_control import VqPairsSet
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.virtio import Feature, control_queue_index, feature_names, mask_of

if TYPE_CHECKING:
    from cvqd.core.shadow_queue import ShadowQueue
    from cvqd.core.site_policy import SitePolicy
    from cvqd.core.tracked import TrackedState
    from cvqd.events import EventLog
    from cvqd.guest_ring import GuestRing
    from cvqd.journal import Journal
    from cvqd.limits import Limits
    from cvqd.owned_device import OwnedDevice
    from cvqd.relay import CommandQueue
    from cvqd.state_log import StateKeeper


class Owner:
    """Owns the device it is given first; one task at a time may call its async methods."""

    def __init__(
        self,
        device: OwnedDevice,
        limits: Limits,
        log: EventLog,
        journal: Journal,
        kept: StateKeeper | None = None,
    ) -> None:
        #: the device that the guest runs on, or will
        self.current = device
        #: the guest's features, without bit 30
        self.features = 0
        #: on trio's clock
        self._patient_until = inf
        self._for_good = False
        self._log = log
        self.journal = journal
        self.memory = GuestMemory(device, log)
        self.life = DriverLife(device, limits, log, kept or NothingKept())
        self.recovery = Recovery()
        self._run: Run | None = None
        #: eventfd for configuration interrupts, -1 while nobody takes them
        self.config_call = -1
        #: set, and replaced, whenever the guest is on another device
        self.moved = trio.Event()

    # what is known

    @property
    def run(self) -> Run | None:
        """What runs now."""
        return self._run

    @property
    def state(self) -> TrackedState:
        """Tracked state of the device."""
        return self.life.state

    @property
    def running(self) -> frozenset[int]:
        """Rings that run, by the guest's index; empty while the device is stopped."""
        return self._run.rings if self._run else frozenset()

    @property
    def patience(self) -> float:
        """Seconds that a stop waits for the answers of a device, if no deadline comes before."""
        return max(0.0, self._patient_until - trio.current_time())

    @property
    def guest_cvq(self) -> int | None:
        """Index of the guest's control queue for its features."""
        if not self.features & Feature.CTRL_VQ.mask:
            return None
        return control_queue_index(self.features, self.current.offer.max_pairs)

    @property
    def guest_pairs(self) -> int:
        """Queue pairs the guest has rings for."""
        return self.current.offer.max_pairs if self.features & mask_of(Feature.MQ, Feature.RSS) else 1

    @property
    def quarantined(self) -> int:
        """Slots of the shadow queue that expired commands still hold."""
        queue = self._run.queue if self._run else None
        return queue.quarantined if queue else 0

    async def ailment(self) -> str | None:
        """Why the running device has to be reset, None if it has not or does not run."""
        run = self._run
        return await self.recovery.needed(run.device.device, run.queue) if run else None

    def word(self, guest_features: int) -> int:
        """Features that the device would have to take for these of a guest."""
        return self.current.word(guest_features, self.life.limits)

    # what is asked for

    def amend(self, *, site: SitePolicy, deadline: float) -> None:
        """Judge by other rules and wait for another time from the next command on.

        What the guest has set already stays; the pairs that it is offered do too.
        """
        self.life.limits = replace(self.life.limits, site=site, deadline=deadline)
        if self._run is not None:
            self._run.amend(self.life.site, deadline)

    def check_site(self) -> None:
        """Say which of the site's rules this device cannot keep, and which its guest went beyond before."""
        for rule, feature in self.life.site.needs.items():
            if not self.current.offer.features & feature.mask:
                self._log.emit("policy.not_enforced", rule=rule, feature=feature.name)
        if self._run is not None:
            rules = self.life.site.broken_by(replay(self.state, self._run.plan.features))
            if rules:
                self._log.emit("policy.exceeded", rules=rules, digest=self.state.digest())

    async def negotiate(self, guest_features: int) -> None:
        """Take the guest's features, of those on offer; DeviceError if the device will not have them."""
        await self.current.negotiate(self.word(guest_features))
        self.features = guest_features
        self._log.emit("frontend.negotiated", features=feature_names(guest_features))

    def uses(self, start: int, size: int) -> bool:
        """Whether a running ring lies in this range of guest memory."""
        return self._run is not None and self._run.uses(start, size)

    async def start(
        self, data: list[GuestRing], control: GuestRing | None, nursery: trio.Nursery, *, pairs: int = 1
    ) -> None:
        """Start the device on the guest's rings; after a DeviceError or GuestError it is reset.

        FrontendError where the state of a driver with other features was loaded.

        ``pairs`` is how many queue pairs are to run where the guest has no control queue to say it.
        """
        begun = monotonic_ns()
        self.life.check_features(self.features)
        ring_format = RingFormat.of(self.features)
        data = [ring.settled(self.memory.space, ring_format) for ring in data]
        control = control and self._resumed(control, ring_format)
        rings = [*data, *([control] if control else [])]
        # only a driver that starts over shows rings that were never used
        self.life.rings_are(initial=all(ring.initial(self.memory.space, ring_format) for ring in rings))
        goes_on = self.life.kept.loaded is not None
        run = await self._launch(data, control, pairs, nursery)
        if goes_on:
            # the process before may have published an answer and then been killed before it called
            run.call_guest()
        self.tell_started(begun)

    def tell_started(self, begun: int) -> None:
        """Say in the log that the device runs; ``begun`` is when its start began, in monotonic ns."""
        if self._run is not None:
            self._log.emit(
                "device.started",
                features=feature_names(self._run.plan.features),
                pairs=self.state.pairs,
                rings=sorted(self.running),
                elapsed_us=(monotonic_ns() - begun) // 1000,
            )

    async def halt(self, run: Run, *, failed: bool = False) -> dict[int, int] | None:
        """Reset the device of a run that was ended; what it says of its data rings, None if nothing.

        What it refuses on the way there is told, and no reason not to go on: a reset is tried all the same.
        """
        self._run = None
        told = None
        try:
            told = await run.stop_device(failed=failed)
        except DeviceError as error:
            tell_failed(self._log, error)
        self.life.stopped()
        return told

    async def start_again(self, run: Run, bases: dict[int, int], nursery: trio.Nursery) -> None:
        """Go on with a run that was ended and halted, where its rings stand; after an error nothing runs."""
        await self._launch(*run.rings_at(bases), self.state.pairs, nursery)

    async def plan(self, device: OwnedDevice, data: list[GuestRing], control: GuestRing | None) -> Run:
        """A run on a device, to be brought up and enabled; stop its device after an error."""
        await device.place_shadow()
        return Run(device, device.word(self.features, self.life.limits), data, control)

    async def bring_up(self, run: Run, pairs: int) -> None:
        """Start the run's device with only its control queue enabled, and put the driver's state back."""
        device = run.device
        # cvqd drives the device's control queue where the guest's does not come this far
        driven = self.guest_cvq is None and run.queue is not None
        await lifecycle.bring_up(device.device, device.facts, device.mappings, device.isolation, run.plan)
        await device.read_config()
        await self.life.restore(run, self.features, pairs if driven else None)
        run.attach(self.memory.space, self.life.kept.note, self._relay)

    async def enable(self, run: Run) -> None:
        """Let the guest's data rings run; the run's device is the guest's from now on."""
        await lifecycle.enable_data(run.device.device, run.device.facts, run.plan)
        await self.life.put_back(run, replay_running(self.state, run.plan.features))
        if run.device is not self.current:
            self.current = self.memory.device = run.device
            self.life.moved(run.device)
            self.moved.set()
            self.moved = trio.Event()
        self._run = run
        run.ring_all()

    def relay(self, run: Run, nursery: trio.Nursery) -> None:
        """Take up the commands of the guest whose data rings run."""
        self.life.runs(self.features)
        run.begin(nursery)

    async def _launch(
        self, data: list[GuestRing], control: GuestRing | None, pairs: int, nursery: trio.Nursery
    ) -> Run:
        run = await self.plan(self.current, data, control)
        try:
            await self.bring_up(run, pairs)
            await self.enable(run)
            self.relay(run, nursery)
        except BaseException:
            with trio.CancelScope(shield=True):
                await run.stop_device()
            raise
        return run

    async def set_pairs(self, pairs: int) -> None:
        """Let this many queue pairs run, if nobody but cvqd can; what the device says to it is in the log."""
        run = self._run
        if run is None or run.own is None or pairs == self.state.pairs:
            return
        if run.plan.features & Feature.MQ.mask:
            await run.own.command(VqPairsSet(pairs))

    def announce(self) -> None:
        """Raise the announce bit in the guest's configuration; RequestError where no guest would see it."""
        if self._run is None:
            raise RequestError("no guest's driver is running")
        needed = mask_of(Feature.GUEST_ANNOUNCE, Feature.STATUS, Feature.CTRL_VQ)
        if missing := needed & ~self.features:
            raise RequestError(f"the guest or its front-end did not take {', '.join(feature_names(missing))}")
        self.life.raise_announce()
        self._log.emit("announce.raised", digest=self.state.digest())

    def ends(self, patience: float) -> None:
        """The device goes away: the next stop is the last one, and everything the guest asked is answered.

        However many stops that takes, they wait ``patience`` seconds together for the device's answers, if
        no deadline comes before; so does one that waits already.
        """
        self._patient_until, self._for_good = trio.current_time() + patience, True
        if self._run is not None:
            self._run.hurry(patience)

    async def stop(self, reason: str, *, failed: bool = False) -> dict[int, int]:
        """Answer what is in flight, stop and reset the device; each ring's base by the guest's index.

        A device that has ``failed`` is not waited for: what is in flight gets ERR.  DeviceError where it
        cannot be reset, or its rings stand nobody knows where.
        """
        run = self._run
        if run is None:
            return {}
        with trio.CancelScope(shield=True):
            await run.end(0 if failed else self.patience, for_good=self._for_good)
            told = await self.halt(run, failed=failed)
            await self._require_reset()
            try:
                await self.current.read_config()
            except DeviceError as error:
                # it is read again before anybody acts on it
                tell_failed(self._log, error)
        how = "suspend" if told is not None else "reset"
        self._log.emit("device.stopped", how=how, reason=reason)
        return run.bases(told, self.memory.space)

    async def pulse(self) -> None:
        """Return when the relay has taken a turn; at once while nothing runs."""
        if self._run is not None:
            await self._run.pulse()
        else:
            await trio.lowlevel.checkpoint()

    async def listen(self, fd: int) -> None:
        """Lend an eventfd for configuration interrupts of whichever device the guest is on; -1 ends it."""
        self.config_call = fd
        await self.current.device.set_config_call(fd)

    async def rebind(self, own: GuestRing) -> None:
        """Lend a running ring new descriptors; the old ones are still open."""
        if self._run is None or own.index not in self.running:
            return
        if own.index != self.guest_cvq:
            await self.current.device.set_vring_call(own.index, own.call)
            await self.current.device.set_vring_kick(own.index, own.kick)
        self._run.rebind(own)

    async def read_config(self) -> bytes:
        """The guest's configuration space as it is now.

        The device is asked: not every change is announced, an acknowledged announcement is not.
        """
        await self.current.read_config()
        return self.life.config()

    async def refresh_config(self) -> None:
        """Read the configuration space again after the device announced a change."""
        status = net_config.decode(await self.current.read_config()).status
        self.life.config_changed()
        self._log.emit("device.config_changed", status=status)

    # steps

    async def _require_reset(self) -> None:
        """A front-end that hears of a stop takes its memory back."""
        if status := await self.current.device.get_status():
            raise DeviceError("VHOST_VDPA_SET_STATUS", EIO, f"the status is {status:#x} after a reset")

    def _resumed(self, control: GuestRing, ring_format: RingFormat) -> GuestRing:
        said = control.settled(self.memory.space, ring_format)
        found = said.resumed(self.memory.space, ring_format, self.life.kept.noted)
        if found.base != said.base:
            self._log.emit("cvq.resumed", base=found.base, said=said.base)
        return found

    def _relay(self, run: Run, guest: CommandQueue, shadow: ShadowQueue) -> Relay:
        return Relay(
            guest=guest,
            shadow=shadow,
            ledger=self.life.ledger,
            policy=run.policy(self.features, self.guest_pairs),
            journal=self.journal,
            deadline=self.life.limits.deadline,
            max_command=self.life.limits.max_command,
            kick_device=run.kick_device,
            call_guest=run.call_guest,
            site=self.life.site,
            suspect=self.recovery.suspect,
            kept=self.life.kept,
        )
