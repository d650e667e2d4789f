"""The owner of one device: from negotiated features and rings to a device that runs, and back.

It keeps what outlives a front-end (tracked state, shadow memory) and what
outlives a reset (the mappings).  It knows rings and memory but no vhost-user
message; those are ``backend``'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from errno import EINVAL
from math import inf
from time import monotonic_ns
from typing import TYPE_CHECKING

import trio

from cvqd.core import config_space, features, lifecycle
from cvqd.core.address_space import AddressSpace
from cvqd.core.isolation import GUEST_ASID, Isolation, Verdict
from cvqd.core.ledger import Ledger
from cvqd.core.mappings import Mappings
from cvqd.core.policy import HashLimits, Policy
from cvqd.core.restore import replay, replay_running
from cvqd.core.site_policy import EVERYTHING, SitePolicy
from cvqd.core.tracked import TrackedState
from cvqd.errors import DeviceError, IsolationError, RequestError
from cvqd.guest_ring import used_index
from cvqd.own_commands import opening
from cvqd.relay import Relay
from cvqd.replay import replay as replay_commands
from cvqd.run import Run
from cvqd.shadow import ShadowMemory
from cvqd.wire import net_config
from cvqd.wire.net_config import LinkStatus
from cvqd.wire.net_control import AnnounceAck, MacAddrSet, MacTableSet, RxMode, RxModeSet, VqPairsSet
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.vhost_vdpa import Access, Map
from cvqd.wire.virtio import Feature, control_queue_index, feature_names, mask_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cvqd.core.device import VdpaDevice
    from cvqd.core.lifecycle import DeviceFacts
    from cvqd.core.shadow_queue import ShadowQueue
    from cvqd.events import EventLog
    from cvqd.guest_ring import GuestRing
    from cvqd.host.shared_memory import SharedMemory
    from cvqd.journal import Journal
    from cvqd.relay import CommandQueue
    from cvqd.wire.net_control import Command


@dataclass(frozen=True, slots=True)
class Limits:
    """What the configuration says: policy on isolation, ``deadline`` in seconds, ``max_command`` in bytes.

    ``mac`` (6 bytes) is the address at the start of each driver's life, None leaves the device's own;
    ``site`` are the rules for the guest's commands.
    """

    require_isolation: bool
    deadline: float
    max_command: int
    mac: bytes | None = None
    site: SitePolicy = EVERYTHING


class Owner:
    """Owns a device that ``lifecycle.inspect`` looked at; one task at a time may call its async methods."""

    def __init__(
        self, device: VdpaDevice, facts: DeviceFacts, limits: Limits, log: EventLog, journal: Journal
    ) -> None:
        self.device = device
        self.facts = facts
        self.offer = features.offer(
            facts.features, facts.max_pairs, facts.vqs, limits.site.pairs, suspends=facts.suspends
        )
        self.isolation = Isolation(Verdict.NONE, (), "not judged yet")
        self.memory = AddressSpace()
        #: the guest's features, without bit 30
        self.features = 0
        self.shadow = ShadowMemory(facts, limits.max_command)
        #: seconds that a stop waits for the device's answers, if no deadline comes before
        self.patience = inf
        self._limits = limits
        self._log = log
        self._journal = journal
        self._mappings = Mappings(device, facts.backend_used)
        self._config = facts.config
        self._ledger = Ledger(self._reset_state())
        #: the address at the start of this driver's life
        self._own_mac = self.state.mac
        self._new_life: str | None = "the service started"
        self._driver_present = False
        self._run: Run | None = None

    # what is known

    @property
    def state(self) -> TrackedState:
        """Tracked state of the device."""
        return self._ledger.state

    @property
    def uncertain(self) -> bool:
        """Whether the device may differ from ``state`` by a command that was never answered."""
        return self._ledger.uncertain

    @property
    def running(self) -> frozenset[int]:
        """Rings that run, by the guest's index; empty while the device is stopped."""
        return self._run.rings if self._run else frozenset()

    @property
    def guest_cvq(self) -> int | None:
        """Index of the guest's control queue for its features."""
        if not self.features & Feature.CTRL_VQ.mask:
            return None
        return control_queue_index(self.features, self.offer.max_pairs)

    @property
    def guest_pairs(self) -> int:
        """Queue pairs the guest has rings for."""
        return self.offer.max_pairs if self.features & mask_of(Feature.MQ, Feature.RSS) else 1

    @property
    def drives_cvq(self) -> bool:
        """Whether cvqd drives the device's control queue, because the guest's does not come this far."""
        return self.guest_cvq is None and self.isolation.cvq is not None

    @property
    def quarantined(self) -> int:
        """Slots of the shadow queue that expired commands still hold."""
        queue = self._run.queue if self._run else None
        return queue.quarantined if queue else 0

    def config(self) -> bytes:
        """Configuration space as the guest is to see it.

        A driver that is about to begin reads the address that the device has after a reset: its own
        life starts from there, whatever the one before it set.
        """
        state = self.state if self._driver_present else self._reset_state()
        return config_space.overlay(self._config, self.offer, state)

    # what is asked for

    async def judge(self) -> None:
        """Judge isolation; IsolationError where the policy requires what cannot be had."""
        has_cvq = bool(self.offer.features & Feature.CTRL_VQ.mask)
        index = self.offer.device_cvq_index if has_cvq else None
        before = self.isolation
        self.isolation = found = await lifecycle.judge_isolation(self.device, self.facts, index)
        if found == before:
            return
        self._log.emit(
            "isolation.verdict",
            verdict=found.verdict.value,
            reason=found.reason,
            queues=[f"{queue.index}: group {queue.group}, ASID {queue.asid}" for queue in found.queues],
        )
        if found.cvq is None or found.verdict is not Verdict.SHARED:
            return
        if self._limits.require_isolation:
            self._log.emit("isolation.refused", queue=found.cvq.index, reason=found.reason)
            raise IsolationError(f"control queue {found.cvq.index}: {found.reason}")
        self._log.emit("isolation.shared", queue=found.cvq.index, reason=found.reason)

    def amend(self, *, site: SitePolicy, deadline: float) -> None:
        """Judge by other rules and wait for another time from the next command on.

        What the guest has set already stays; the pairs that it is offered do too.
        """
        self._limits = replace(self._limits, site=site, deadline=deadline)
        if self._run is not None:
            self._run.amend(self._site, deadline)

    def check_site(self) -> None:
        """Say which of the site's rules this device cannot keep, and which its guest went beyond before."""
        for rule, feature in self._site.needs.items():
            if not self.offer.features & feature.mask:
                self._log.emit("policy.not_enforced", rule=rule, feature=feature.name)
        if self._run is not None:
            rules = self._site.broken_by(replay(self.state, self._run.plan.features))
            if rules:
                self._log.emit("policy.exceeded", rules=rules, digest=self.state.digest())

    async def negotiate(self, guest_features: int) -> None:
        """Take the guest's features and try them on the device; DeviceError refuses them."""
        beyond = guest_features & ~self.offer.features
        if beyond:
            raise DeviceError(
                "VHOST_SET_FEATURES", EINVAL, f"{', '.join(feature_names(beyond))} was not offered"
            )
        await lifecycle.negotiate(self.device, self._device_word(guest_features))
        await self._mappings.restore()
        await self.judge()
        self.features = guest_features
        self._log.emit("frontend.negotiated", features=feature_names(guest_features))

    async def change_memory(self, removed: Iterable[int], added: Mapping[int, SharedMemory]) -> None:
        """Unmap regions by guest address, then map others; what stays is not touched.

        The caller stops the device first where a running ring would lose its memory
        or where ``displaces`` says that the shadow memory has to move.
        """
        begun = monotonic_ns()
        gone = list(removed)
        if self.displaces(added):
            await self.shadow.withdraw(self._mappings)
        maps = [Map(start, len(part), part, 0, Access.READ_WRITE) for start, part in added.items()]
        for start in gone:
            self.memory.remove(start, 1)
        await self._mappings.change(GUEST_ASID, gone, maps)
        for start, part in added.items():
            self.memory.add(start, part.view)
        self._log.emit(
            "memory.mapped",
            regions=len(self.memory),
            bytes=sum(len(extent.view) for extent in self.memory.extents),
            added=len(added),
            removed=len(gone),
            elapsed_us=(monotonic_ns() - begun) // 1000,
        )

    def uses(self, start: int, size: int) -> bool:
        """Whether a running ring lies in this range of guest memory."""
        return self._run is not None and self._run.uses(start, size)

    def displaces(self, added: Mapping[int, SharedMemory]) -> bool:
        """Whether these regions lie where the shadow memory is (it shares the guest's address space then)."""
        return any(self.shadow.overlaps(GUEST_ASID, start, len(part)) for start, part in added.items())

    def driver_left(self, reason: str | None = None) -> None:
        """Note that whoever reads the configuration next is a driver at its beginning.

        With a ``reason`` that is certain and the next start begins from the device's reset state;
        without, the rings will tell.
        """
        self._driver_present = False
        if reason is not None:
            self._new_life = reason

    async def start(
        self, data: list[GuestRing], control: GuestRing | None, nursery: trio.Nursery, *, pairs: int = 1
    ) -> None:
        """Start the device on the guest's rings; after a DeviceError or GuestError it is reset.

        ``pairs`` is how many queue pairs are to run where the guest has no control queue to say it.
        """
        begun = monotonic_ns()
        ring_format = RingFormat.of(self.features)
        data = [ring.settled(self.memory, ring_format) for ring in data]
        control = control and control.settled(self.memory, ring_format)
        rings = [*data, *([control] if control else [])]
        # only a driver that starts over shows rings that were never used
        if self._new_life is None and all(ring.initial(self.memory, ring_format) for ring in rings):
            self._new_life = "every ring is initial"
        cvq = self.isolation.cvq
        if cvq is not None:
            await self.shadow.place(self._mappings, self.isolation.asid)
        run = Run(self._device_word(self.features), data, control, self.shadow, cvq.index if cvq else None)
        try:
            await lifecycle.bring_up(self.device, self.facts, self._mappings, self.isolation, run.plan)
            await self._restore(run, pairs)
            run.attach(self.memory, self._relay)
            await lifecycle.enable_data(self.device, self.facts, run.plan)
            await self._replay(run, replay_running(self.state, run.plan.features))
        except BaseException:
            with trio.CancelScope(shield=True):
                await run.stop_device(self.device, self.facts)
            raise
        self._run = run
        self._driver_present = True
        run.ring_all()
        nursery.start_soon(run.relay)
        self._log.emit(
            "device.started",
            features=feature_names(run.plan.features),
            pairs=self.state.pairs,
            rings=sorted(self.running),
            elapsed_us=(monotonic_ns() - begun) // 1000,
        )

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
        if not self._device_announces:
            self._ledger.raise_announce()
        self._log.emit("announce.raised", digest=self.state.digest())

    async def stop(self, reason: str) -> dict[int, int]:
        """Answer what is in flight, stop and reset the device; each ring's base by the guest's index."""
        run = self._run
        if run is None:
            return {}
        with trio.CancelScope(shield=True):
            await run.end(self.patience)
            self._run = None
            bases = await run.stop_device(self.device, self.facts)
            self._config = await self.device.get_config(0, len(self._config))
        how = "suspend" if bases is not None else "reset"
        if bases is None:
            # a device that cannot say where it stopped has finished what it used
            bases = {
                plan.index: used_index(self.memory, plan.num, plan.addresses, run.format)
                for plan in run.plan.data
            }
        if run.guest is not None and run.guest_cvq is not None:
            bases[run.guest_cvq.index] = run.guest.base
        self._ledger = Ledger(self.state)
        self._log.emit("device.stopped", how=how, reason=reason)
        return bases

    async def rebind(self, own: GuestRing) -> None:
        """Lend a running ring new descriptors; the old ones are still open."""
        if self._run is None or own.index not in self.running:
            return
        if own.index == self.guest_cvq:
            self._run.rebind(own)
            return
        await self.device.set_vring_call(own.index, own.call)
        await self.device.set_vring_kick(own.index, own.kick)

    async def read_config(self) -> bytes:
        """``config`` as it is now: not every change is announced, an acknowledged announcement is not."""
        self._config = await self.device.get_config(0, len(self._config))
        return self.config()

    async def refresh_config(self) -> None:
        """Read the configuration space again after the device announced a change."""
        self._config = await self.device.get_config(0, len(self._config))
        if self._device_announces and self.state.announce:
            # one acknowledgement answers one bit: from here on it is the device's
            self._ledger.local(AnnounceAck())
        self._log.emit("device.config_changed", status=net_config.decode(self._config).status)

    async def release_memory(self) -> None:
        """Forget all guest memory; the device must be stopped."""
        await self.change_memory([extent.start for extent in self.memory.extents], {})

    # steps

    @property
    def _sets_mac(self) -> bool:
        """Whether the device lets the configured address be set."""
        return bool(self.offer.features & Feature.CTRL_MAC_ADDR.mask)

    def _device_word(self, guest_features: int) -> int:
        word = self.offer.device_word(guest_features, self.facts.features)
        word |= self._limits.site.features & self.offer.features
        return word | Feature.CTRL_MAC_ADDR.mask if self._limits.mac and self._sets_mac else word

    @property
    def _site(self) -> SitePolicy:
        return self._limits.site.allowing(self._own_mac)

    @property
    def _device_announces(self) -> bool:
        """Whether the device itself waits for its driver to announce itself."""
        if self.offer.emulated & mask_of(Feature.STATUS, Feature.GUEST_ANNOUNCE):
            return False
        return bool(net_config.decode(self._config).status & LinkStatus.ANNOUNCE)

    def _reset_state(self, features: int = 0) -> TrackedState:
        """State that a driver with these features on the device begins with."""
        own = net_config.decode(self._config).mac
        return TrackedState.after_reset(self._limits.mac or own if self._sets_mac else own, features)

    async def _restore(self, run: Run, pairs: int) -> None:
        """Give the device the state its driver left, or take the device's own for a new driver."""
        self._config = await self.device.get_config(0, len(self._config))
        if self._new_life is not None:
            commands = self._limits.site.opening(self.features, run.plan.features)
            state = self._reset_state(run.plan.features)
            self._own_mac = state.mac
            if self._limits.mac is not None and self._sets_mac:
                commands.insert(0, MacAddrSet(self._limits.mac))
            if self.drives_cvq:
                commands += opening(run.plan.features, pairs, promiscuous=self._limits.site.promiscuous)
            for command in commands:
                state = state.after(command)
            self._ledger = Ledger(state)
            self._log.emit("state.reset", reason=self._new_life, digest=self.state.digest())
            self._new_life = None
            await self._replay(run, commands)
        else:
            if self.drives_cvq and run.plan.features & Feature.MQ.mask:
                self._ledger = Ledger(self.state._replace(pairs=pairs))
            await self._replay(run, replay(self.state, run.plan.features))
        if self.drives_cvq:
            self._tell_driven(run.plan.features)

    def _tell_driven(self, device_features: int) -> None:
        promiscuous = bool(self.state.rx >> RxMode.PROMISC & 1)
        self._log.emit("cvq.driven", pairs=self.state.pairs, promiscuous=promiscuous)
        if not promiscuous:
            lacks = not device_features & Feature.CTRL_RX.mask
            reason = "the device lacks CTRL_RX" if lacks else "the site's policy refuses it"
            self._log.emit("cvq.not_promiscuous", reason=reason)

    async def _replay(self, run: Run, commands: list[Command]) -> None:
        if run.queue is None or not commands:
            return
        begun = monotonic_ns()
        widened = await replay_commands(
            commands,
            run.queue,
            run.doorbells,
            run.kick_device,
            self._limits.deadline,
            may_widen=self._site.promiscuous,
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
            self._ledger.widened(widened=widened)
        self._log.emit(
            "state.replayed",
            commands=len(commands),
            digest=self.state.digest(),
            elapsed_us=(monotonic_ns() - begun) // 1000,
        )

    def _relay(self, run: Run, guest: CommandQueue, shadow: ShadowQueue) -> Relay:
        return Relay(
            guest=guest,
            shadow=shadow,
            ledger=self._ledger,
            policy=self._policy(run),
            journal=self._journal,
            deadline=self._limits.deadline,
            max_command=self._limits.max_command,
            kick_device=run.kick_device,
            call_guest=run.call_guest,
            site=self._site,
        )

    def _policy(self, run: Run) -> Policy:
        """What the guest's commands are judged by in this run."""
        space = net_config.decode(self._config)
        data = {plan.index for plan in run.plan.data}
        return Policy(
            run.plan.features if run.guest_cvq is None else self.features,
            self.guest_pairs,
            announces=bool(self.offer.emulated & Feature.GUEST_ANNOUNCE.mask),
            hashing=HashLimits(
                space.rss_max_key_size, space.rss_max_indirection_table_length, space.supported_hash_types
            ),
            disabled=frozenset(range(2 * self.guest_pairs)) - data,
            device_cvq=self.offer.device_cvq_index,
            max_answer=self.shadow.max_answer,
        )
