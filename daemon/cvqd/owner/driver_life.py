"""One driver's life on the device: the state it has set, and what the next driver begins with.

A life ends when the driver resets the device, or is found to have ended at the
next start: only a new driver has rings that were never used.  A start within a
life replays the tracked state, even one kept by an earlier process; the first
start of a life begins from the device's state after a reset and from what the
site's policy demands.
"""

from __future__ import annotations

from dataclasses import replace
from time import monotonic_ns
from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.core import config_space
from cvqd.core.features import meant
from cvqd.core.kept_state import KeptState
from cvqd.core.ledger import Ledger
from cvqd.core.restore import replay
from cvqd.core.tracked import TrackedState
from cvqd.errors import FrontendError
from cvqd.owner.own_commands import opening
from cvqd.owner.replay import replay as replay_commands
from cvqd.wire import net_config
from cvqd.wire.net_control import MacAddrSet, MacTableSet, RxMode, RxModeSet, VqPairsSet
from cvqd.wire.virtio import Feature, feature_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvqd.core.limits import Limits
    from cvqd.core.site_policy import SitePolicy
    from cvqd.core.state_keeper import StateKeeper
    from cvqd.events import EventLog
    from cvqd.owner.owned_device import OwnedDevice
    from cvqd.owner.run import Run
    from cvqd.wire.net_control import Command


#: why the first driver's life begins in a process that knows of none before
SERVICE_STARTED: Final = "the service started"


class _Loaded(NamedTuple):
    """Features of the driver whose state was loaded, and by whom (``how`` in the log)."""

    features: int
    how: str


class DriverLife:
    """Tracked state and configuration space as the guest sees them."""

    def __init__(self, device: OwnedDevice, limits: Limits, log: EventLog, kept: StateKeeper) -> None:
        self.limits = limits
        #: the device that the driver is on now
        self.device = device
        self._log = log
        self.kept = kept
        loaded = kept.loaded
        self.ledger = Ledger(loaded.state if loaded else self._reset_state())
        self._own_mac = loaded.mac if loaded else self.state.mac
        self._begins: str | None = None if loaded else SERVICE_STARTED
        self._present = False
        #: set while loaded state is not in use yet
        self._loaded: _Loaded | None = None

    @property
    def state(self) -> TrackedState:
        """Tracked state of the device."""
        return self.ledger.state

    @property
    def site(self) -> SitePolicy:
        """The site's rules; the address that this life began with is always allowed."""
        return self.limits.site.allowing(self._own_mac)

    def config(self) -> bytes:
        """Configuration space as the guest sees it.

        A driver that is about to begin sees the MAC address that the device has after a reset, whatever
        the driver before it set.
        """
        known = self._present or self._loaded is not None
        state = self.state if known else self._reset_state()
        return config_space.overlay(self.device.config, self.device.offer, state)

    def config_changed(self) -> None:
        """Note that the device's configuration has changed."""
        if self.device.announces and self.state.announce:
            # the guest acknowledges once: the device's own announce bit replaces ours
            self.ledger.announced()

    def raise_announce(self) -> None:
        """Show the announce bit, unless the device does."""
        if not self.device.announces:
            self.ledger.raise_announce()
            self.kept.compact(self.ledger)

    def left(self, reason: str | None = None) -> None:
        """Note that the next to read the configuration may be a new driver.

        With a ``reason`` it certainly is, and the next start begins from the device's reset state;
        without one the rings will tell.
        """
        self._present = False
        if reason is not None:
            self.unload(reason)
            self._begins = reason
            self.kept.end()

    def load(self, state: TrackedState, features: int, how: str) -> None:
        """Continue, at the next start, from another device's state, set by a driver with these features.

        Its rings may look as if they had never been used.  ``how`` is the log's field.
        """
        self.ledger = Ledger(state)
        self._own_mac = self._reset_state().mac
        self._begins = None
        self._present = False
        self._loaded = _Loaded(features, how)
        # what an earlier process kept belongs to another guest or is older
        self.kept.end()

    def unload(self, reason: str, how: str | None = None) -> None:
        """Discard loaded state, unless a driver uses it by now; with ``how``, only if it was loaded so."""
        if self._loaded is None or how not in (None, self._loaded.how):
            return
        self._log.emit("snapshot.unused", digest=self.state.digest(), reason=reason)
        self._loaded = None
        self._begins = reason
        self.ledger = Ledger(self._reset_state())

    def check_features(self, features: int) -> None:
        """FrontendError if the loaded state is of a driver with other features; it is discarded then."""
        if self._loaded is None or features == self._loaded.features:
            return
        other = ", ".join(feature_names(features ^ self._loaded.features))
        reason = f"the state that was loaded is of a driver that differs in {other}"
        self.unload(reason)
        raise FrontendError("SET_FEATURES", reason)

    def rings_are(self, *, initial: bool) -> None:
        """Note at a start whether every ring is ``initial``, as only a new driver's are."""
        if initial and self._loaded is None:
            self._begins = self._begins or "every ring is initial"
        elif self._begins == SERVICE_STARTED and not initial:
            self._log.emit("state.unknown")

    def moved(self, device: OwnedDevice) -> None:
        """Note that the driver is on another device; the guest keeps the MAC address it began with."""
        announces = self.device.announces
        self.device = device
        self.limits = replace(self.limits, mac=self._own_mac)
        if announces:
            # the request of the old device is still open
            self.raise_announce()

    def stayed(self, *, widened: bool) -> None:
        """Note that a move failed; ``widened`` is how it was on this device before."""
        self.ledger.widened(widened=widened)

    def stopped(self) -> None:
        """Note that the device was reset: the next start replays the tracked state."""
        self.ledger = Ledger(self.state)

    def runs(self, guest_features: int) -> None:
        """Note that the driver runs; what it sets from now on is kept."""
        self._present = True
        self._loaded = None
        self.kept.begin(KeptState(guest_features, self._own_mac, self.state))

    async def restore(self, run: Run, guest_features: int, driven_pairs: int | None) -> None:
        """Give the device the state its driver left, or what a new driver begins with.

        ``driven_pairs`` is how many queue pairs are to run where cvqd drives the control queue, else None.
        """
        word = run.plan.features
        loaded = self.kept.loaded
        if loaded is not None and loaded.guest_features != guest_features:
            # virtio 1.3 §3.1.1: only a driver that starts over negotiates features
            self._begins = self._begins or "the driver has other features than the one whose state was kept"
        if self._begins is not None:
            commands = self.limits.site.opening(meant(guest_features), word)
            state = self._reset_state(word)
            self._own_mac = state.mac
            if self.limits.mac is not None and self.device.sets_mac:
                commands.insert(0, MacAddrSet(self.limits.mac))
            if driven_pairs is not None:
                commands += opening(word, driven_pairs, promiscuous=self.limits.site.promiscuous)
            for command in commands:
                state = state.after(command)
            self.ledger = Ledger(state)
            self._log.emit("state.reset", reason=self._begins, digest=self.state.digest())
            self._begins = None
            await self.put_back(run, commands)
        else:
            if driven_pairs is not None and driven_pairs != self.state.pairs and word & Feature.MQ.mask:
                self.ledger = Ledger(self.state.after(VqPairsSet(driven_pairs)))
            await self.put_back(run, replay(self.state, word))
        if driven_pairs is not None:
            self._tell_driven(word)

    async def put_back(self, run: Run, commands: Sequence[Command]) -> None:
        """Send commands of our own before the guest's; DeviceError names the one that failed."""
        if run.queue is None or not commands:
            return
        begun = monotonic_ns()
        widened = await replay_commands(
            commands,
            run.queue,
            run.doorbells,
            run.kick_device,
            self.limits.deadline,
            may_widen=self.site.promiscuous,
        )
        table = next((command for command in commands if isinstance(command, MacTableSet)), None)
        if table is not None and widened:
            self._log.emit(
                "cvq.table.widened",
                command_id=0,
                unicast=len(table.unicast),
                multicast=len(table.multicast),
            )
        if any(isinstance(command, RxModeSet) for command in commands):
            self.ledger.widened(widened=widened)
        self._log.emit(
            "state.replayed",
            commands=len(commands),
            digest=self.state.digest(),
            elapsed_us=(monotonic_ns() - begun) // 1000,
        )

    def _reset_state(self, features: int = 0) -> TrackedState:
        """State that a driver with these features on the device begins with."""
        own = net_config.decode(self.device.config).mac
        return TrackedState.after_reset(self.limits.mac or own if self.device.sets_mac else own, features)

    def _tell_driven(self, device_features: int) -> None:
        promiscuous = bool(self.state.rx >> RxMode.PROMISC & 1)
        self._log.emit("cvq.driven", pairs=self.state.pairs, promiscuous=promiscuous)
        if not promiscuous:
            lacks = not device_features & Feature.CTRL_RX.mask
            reason = "the device lacks CTRL_RX" if lacks else "the site's policy refuses it"
            self._log.emit("cvq.not_promiscuous", reason=reason)
