"""The owner of one device: what its guest has negotiated and shared, what runs, and how it stops.

It keeps what stays the same when the guest moves to another device: its memory
and the driver's life.  What concerns one device only is in ``owned_device``, and
bringing a device up is in ``launch``.  It knows rings and memory but no
vhost-user messages; those are in ``frontend.conversation``.
"""

from __future__ import annotations

from dataclasses import replace
from errno import EIO
from math import inf
from typing import TYPE_CHECKING

import trio

from cvqd.core.restore import replay
from cvqd.core.state_keeper import NothingKept
from cvqd.errors import DeviceError, RequestError
from cvqd.owner.driver_life import DriverLife
from cvqd.owner.guest_memory import GuestMemory
from cvqd.owner.owned_device import tell_failed
from cvqd.owner.recovery import Recovery
from cvqd.wire import net_config
from cvqd.wire.net_control import VqPairsSet
from cvqd.wire.virtio import Feature, control_queue_index, feature_names, mask_of

if TYPE_CHECKING:
    from cvqd.core.limits import Limits
    from cvqd.core.queues.guest_ring import GuestRing
    from cvqd.core.site_policy import SitePolicy
    from cvqd.core.state_keeper import StateKeeper
    from cvqd.core.tracked import TrackedState
    from cvqd.events import EventLog
    from cvqd.owner.owned_device import OwnedDevice
    from cvqd.owner.run import Run
    from cvqd.telemetry.journal import Journal


class Owner:
    """Owns the device its guest is on; one task at a time may call its async methods."""

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
        #: the guest's features, without bit 30, and without CTRL_VQ if its front-end keeps that queue
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
        #: eventfd for configuration interrupts, -1 while nobody listens
        self.config_call = -1
        #: set, and replaced, whenever the guest has moved to another device
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
        """Seconds that a stop waits for the device's answers, unless a deadline comes first."""
        return max(0.0, self._patient_until - trio.current_time())

    @property
    def guest_cvq(self) -> int | None:
        """Index of the guest's control queue, None without one."""
        return self.cvq_with(self.features)

    def cvq_with(self, guest_features: int) -> int | None:
        """Index of the control queue of a guest with these features, None without one."""
        if not guest_features & Feature.CTRL_VQ.mask:
            return None
        return control_queue_index(guest_features, self.current.offer.max_pairs)

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
        """Why the running device has to be reset; None if it is well or does not run."""
        run = self._run
        return await self.recovery.needed(run.device.device, run.queue) if run else None

    def word(self, guest_features: int) -> int:
        """Features to acknowledge on the device for a guest with these."""
        return self.current.word(guest_features, self.life.limits)

    # what is asked for

    def amend(self, *, site: SitePolicy, deadline: float) -> None:
        """Apply another site policy and deadline from the next command on.

        What the guest has already set stays, and so does the number of pairs it is offered.
        """
        self.life.limits = replace(self.life.limits, site=site, deadline=deadline)
        if self._run is not None:
            self._run.amend(self.life.site, deadline)

    def check_site(self) -> None:
        """Log which of the site's rules this device cannot enforce, and which its guest already exceeds."""
        for rule, feature in self.life.site.needs.items():
            if not self.current.offer.features & feature.mask:
                self._log.emit("policy.not_enforced", rule=rule, feature=feature.name)
        if self._run is not None:
            rules = self.life.site.broken_by(replay(self.state, self._run.plan.features))
            if rules:
                self._log.emit("policy.exceeded", rules=rules, digest=self.state.digest())

    async def negotiate(self, guest_features: int) -> None:
        """Take the guest's features, a subset of the offer; DeviceError if the device refuses them."""
        await self.current.negotiate(self.word(guest_features))
        self.features = guest_features
        self._log.emit("frontend.negotiated", features=feature_names(guest_features))

    def uses(self, start: int, size: int) -> bool:
        """Whether a running ring lies in this range of guest memory."""
        return self._run is not None and self._run.uses(start, size)

    def began(self, run: Run) -> None:
        """Note that the guest's data rings run; the run's device is the guest's from now on."""
        if run.device is not self.current:
            self.current = self.memory.device = run.device
            self.life.moved(run.device)
            self.moved.set()
            self.moved = trio.Event()
        self._run = run

    async def halt(self, run: Run, *, failed: bool = False) -> dict[int, int] | None:
        """Reset the device of an ended run; where it says that its data rings stand, None if it does not.

        Its errors on the way are logged, and the reset is tried all the same.
        """
        self._run = None
        told = None
        try:
            told = await run.stop_device(failed=failed)
        except DeviceError as error:
            tell_failed(self._log, error)
        self.life.stopped()
        return told

    async def set_pairs(self, pairs: int) -> None:
        """Run this many queue pairs, if cvqd drives the control queue; the device's answer is in the log."""
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
        """Note that the device goes away: the next stop is the last, and answers all of the guest's commands.

        All stops from now on, and one under way, wait ``patience`` seconds in total for the device's answers,
        unless a deadline comes first.
        """
        self._patient_until, self._for_good = trio.current_time() + patience, True
        if self._run is not None:
            self._run.hurry(patience)

    async def stop(self, reason: str, *, failed: bool = False) -> dict[int, int]:
        """Answer what is in flight, stop and reset the device; each ring's base by the guest's index.

        A device that has ``failed`` is not waited for: what is in flight gets ERR.  DeviceError if it
        cannot be reset, or if nobody knows where its rings stand.
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

        The device is asked: not every change raises an interrupt; an acknowledged announcement does not.
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
        """DeviceError if the reset did not work: a front-end that hears of a stop takes its memory back."""
        if status := await self.current.device.get_status():
            raise DeviceError("VHOST_VDPA_SET_STATUS", EIO, f"the status is {status:#x} after a reset")
