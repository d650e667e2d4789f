"""The network device itself: rings, groups, control state, and the work it does in turns.

In the kernel's terms this is the *parent device* (``drivers/vdpa/vdpa_sim``),
while ``device`` is vhost-vdpa on top of it.  It trusts its caller to have
checked arguments, awaits nothing and is passed the time.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from cvqd.simulator.control import Control
from cvqd.simulator.cvq import ControlQueue
from cvqd.simulator.datapath import UNPLUGGED, DataPath
from cvqd.simulator.doorbells import WAKE, Bell, Doorbells
from cvqd.simulator.faults import FaultPlan
from cvqd.simulator.iotlb import Iotlb
from cvqd.simulator.moderation import Moderation
from cvqd.simulator.negotiation import Negotiation
from cvqd.simulator.peer import steer
from cvqd.simulator.ring import Ring
from cvqd.simulator.statistics import Statistics
from cvqd.wire.vhost_vdpa import Backend
from cvqd.wire.virtio import Feature, Status, control_queue_index, mask_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cvqd.core.address_space import AddressSpace
    from cvqd.events import EventLog
    from cvqd.simulator.datapath import Outside
    from cvqd.simulator.outlet import Outlet
    from cvqd.simulator.spec import SimulatorSpec
    from cvqd.wire.ring_format import RingFormat

#: doorbell token of the outside link's descriptor; those of rings are their indices
_OUTSIDE: Final = -2


class NetDevice:
    """A network device that works whenever ``turn`` is called."""

    def __init__(self, spec: SimulatorSpec, log: EventLog, fence: Callable[[], None]) -> None:
        self.spec: Final = spec
        self.statistics: Final = Statistics()
        self.faults: Final = FaultPlan(spec.faults)
        self.doorbells: Final = Doorbells()
        self.negotiation: Final = Negotiation(spec)
        self.iotlb: Final = Iotlb(spec.address_spaces, spec.iova_range, self._table_changed)
        self.rings: Final = [
            Ring(
                index,
                partial(self._memory, index),
                self._ring_format,
                fence,
                log,
                self.statistics,
                most=spec.queue_size,
            )
            for index in range(spec.queue_count)
        ]
        self.control: Final = Control(spec, self.statistics, lambda queue: self.rings[queue].enabled)
        self.bells: Final = [Bell() for _ in self.rings]
        self.config_bell: Final = Bell()
        self._asids = [0] * spec.group_count
        self._cvq = ControlQueue(self.control, self.faults, log, self.statistics, self.fail)
        self._data = DataPath(self.rings, self.control, self.statistics, spec.mtu)
        self._moderation = Moderation(self.control.coalescing)
        self._outlet: Outlet | None = None
        self._outside: Outside | None = None
        self._arrivals_pending = False

    def join(self, outlet: Outlet) -> None:
        """Send and receive frames through ``outlet`` whenever the device runs."""
        self._outlet = outlet
        outlet.join(self)

    def plug(self, outside: Outside | None) -> None:
        """See ``Outlet``; None pulls the cable out."""
        self.doorbells.unbind(_OUTSIDE)
        self._outside = outside
        self._data.link = outside or UNPLUGGED
        self._arrivals_pending = False
        if outside is not None:
            self.doorbells.bind(_OUTSIDE, outside.fileno())

    def set_status(self, status: int) -> None:
        """Reset for 0; else DeviceError EINVAL from ``Negotiation.set_status``."""
        self.collect_kicks()
        if status == 0:
            self.reset()
            return
        before = self.negotiation.status
        self.negotiation.set_status(status)
        if self.negotiation.status & ~before & Status.FEATURES_OK:
            self.control.negotiated(self.negotiation.features)
        self._claim()

    def set_group_asid(self, group: int, asid: int) -> None:
        """Translate for the rings of ``group`` with address space ``asid``."""
        self._asids[group] = asid
        self._detach(group)

    def set_kick(self, index: int, fd: int) -> None:
        """Set the kick eventfd of a ring; -1 for none."""
        self.collect_kicks()
        self.doorbells.bind(index, fd)
        self.collect_kicks()

    def set_enabled(self, index: int, *, enabled: bool) -> None:
        """Let a ring run or stop it; earlier kicks are lost."""
        self.collect_kicks()
        ring = self.rings[index]
        if ring.enabled != enabled:
            self._tell(self._moderation.release(index))
            ring.enabled = enabled
            # §5.1.6.5.9.2: a queue that is enabled again has the parameters of all queues
            self.control.state.queue_coalescing.pop(index, None)
            ring.pending = False
            ring.broken = False
            ring.detach()
            # frames may have been waiting for it
            self.doorbells.wake()

    def set_suspended(self, *, suspended: bool) -> None:
        """Stop all rings at once, or let them go on and serve kicks that came in the meantime."""
        self.collect_kicks()
        self.negotiation.suspended = suspended
        self._claim()
        self._tell(self._moderation.release())
        self.doorbells.wake()

    def reset(self) -> None:
        """Status 0: the driver's settings are forgotten, statistics, link and backend features stay."""
        self.negotiation.reset()
        for ring, bell in zip(self.rings, self.bells, strict=True):
            ring.reset()
            bell.bind(-1)
            self.doorbells.unbind(ring.index)
        self._asids = [0] * self.spec.group_count
        self._cvq.reset()
        self._moderation.reset()
        self.control.reset()
        if not self.negotiation.acknowledged(Backend.IOTLB_PERSIST):
            self.iotlb.forget_effective()

    def close(self) -> None:
        """Reset, and forget what survives a reset; ``engine.release`` closes the doorbells."""
        self.reset()
        self.config_bell.bind(-1)
        self.negotiation.backend = 0
        self.iotlb.clear()
        if self._outlet is not None:
            self._outlet.leave(self)
            self._outlet = None

    def announce(self) -> None:
        """Ask the driver to announce itself, virtio 1.3 §5.1.6.5.4.

        Nothing happens unless GUEST_ANNOUNCE and STATUS were negotiated.
        """
        wanted = mask_of(Feature.GUEST_ANNOUNCE, Feature.STATUS)
        if self.negotiation.features & wanted == wanted:
            self.control.state.announce = True
            self.config_bell.ring()

    def fail(self) -> None:
        """Set NEEDS_RESET, tell the driver and serve nothing until the reset: virtio 1.3 §2.1.2."""
        self.negotiation.fail()
        self.config_bell.ring()

    def set_link(self, *, up: bool) -> None:
        """Set the link up or down; a change is signalled to the driver."""
        if self.control.link_up != up:
            self.control.link_up = up
            self.config_bell.ring()

    @property
    def next_due(self) -> float | None:
        """When to call ``turn`` even if nothing rings, in seconds of the clock that is passed to it."""
        if not self.negotiation.running:
            return None
        dues = (self._cvq.next_due, self._moderation.next_due)
        return min((due for due in dues if due is not None), default=None)

    def collect_kicks(self) -> None:
        """Take note of what rang, outside a turn.

        Called before every change that decides whether a kick counts, so that a
        kick is judged by the state at its time, not by the state when the engine
        wakes up: before DRIVER_OK and on a disabled ring it is lost, as with
        ``vdpasim_kick_vq`` in ``drivers/vdpa/vdpa_sim/vdpa_sim.c``.
        """
        if self._note_rung():
            # these do not ring again, and may include a running ring's kick or a wake-up
            self.doorbells.wake()

    def _note_rung(self) -> bool:
        rung = self.doorbells.take()
        for token in rung:
            if token == _OUTSIDE:
                self._arrivals_pending = True
            elif token != WAKE and self.negotiation.driver_ok and self.rings[token].enabled:
                self.rings[token].pending = True
                self._count(token, "notifications")
        return bool(rung)

    def turn(self, now: float) -> bool:
        """Do a bounded part of what is pending, the control queue first; whether work is left."""
        self._note_rung()
        if not self.negotiation.running:
            return False
        touched = self._cvq.answer_late(now)
        features = self.negotiation.features
        # without CTRL_VQ too, the index is the number of data rings
        index = control_queue_index(features, self.spec.max_queue_pairs)
        served = self.rings[:index]
        if features & Feature.CTRL_VQ.mask:
            control = self.rings[index]
            served.append(control)
            if control.pending:
                control.pending = self._cvq.serve(control, now)
                touched.add(control)
        for ring in self.rings[:index]:
            if ring.pending:
                # a kick on a receive ring only says that there are new buffers, which need no work
                ring.pending = bool(ring.index & 1) and self._data.transmit(ring)
        self._receive_from_outside()
        for ring in touched:
            if ring.publish():
                self.bells[ring.index].ring()
        for ring, packets in self._data.touched().items():
            if ring.publish():
                self._moderation.used(ring.index, packets, now)
        self._tell(self._moderation.due(now))
        return self._receiving or any(ring.pending for ring in served)

    def _tell(self, queues: Iterable[int]) -> None:
        """Call the driver for data rings."""
        for queue in queues:
            self.bells[queue].ring()
            self._count(queue, "interrupts")

    def _count(self, queue: int, what: str) -> None:
        if queue < 2 * self.spec.max_queue_pairs:
            self.statistics.queues[queue][f"{'tx' if queue & 1 else 'rx'}_{what}"] += 1

    def _receive_from_outside(self) -> None:
        if self._outside is None or not self._receiving:
            return
        frames, self._arrivals_pending = self._outside.arrived()
        for frame in frames:
            self._data.receive(frame, steer(frame, self.control.state.pairs))

    @property
    def _receiving(self) -> bool:
        """Whether frames have arrived and a receive ring is enabled; until then they wait in the link."""
        receive = self.rings[: 2 * self.spec.max_queue_pairs : 2]
        return self._arrivals_pending and any(ring.enabled for ring in receive)

    def _claim(self) -> None:
        if self._outlet is not None and self.negotiation.running:
            self._outlet.claim(self)

    def _memory(self, index: int) -> AddressSpace:
        return self.iotlb.table(self._asids[self.spec.group_of(index)])

    def _ring_format(self) -> RingFormat:
        return self.negotiation.ring_format

    def _table_changed(self, asid: int) -> None:
        for group, used in enumerate(self._asids):
            if used == asid:
                self._detach(group)

    def _detach(self, group: int) -> None:
        for ring in self.rings:
            if self.spec.group_of(ring.index) == group:
                ring.detach()
                self._cvq.detach(ring)
