"""The vhost-user back-end: what a front-end's message does to the device that is owned.

Each message is taken in by the session, carried out here, and answered only
then; in between the start rule is asked, so that a device which should stop
has stopped before its front-end hears anything, a bare GET_FEATURES included.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, TypeVar, cast

import trio

from cvqd import inband
from cvqd.call_descriptors import CallDescriptors
from cvqd.core.features import objection
from cvqd.core.session import Session
from cvqd.core.session_effects import (
    CheckDeviceState,
    Effect,
    GetStatus,
    MemoryChanged,
    ReadConfig,
    Refusal,
    ResetDevice,
    Result,
    RingConfigured,
    RingDescriptor,
    RingDescriptorChanged,
    RingEnabled,
    RingKicked,
    RingStopped,
    SetFeatures,
    SetMtu,
    SetStatus,
    TransferDeviceState,
    WriteConfig,
)
from cvqd.core.session_offer import Offer
from cvqd.core.start_rule import Readiness, wants_start, wants_stop
from cvqd.device_state import HOW as BY_FRONT_END
from cvqd.device_state import DeviceState
from cvqd.errors import DeviceError, FrontendError, GuestError, RequestError
from cvqd.guest_ring import GuestRing
from cvqd.host.backend_channel import send_config_change
from cvqd.host.doorbell import DoorbellSet, drain, never_wait
from cvqd.host.shared_memory import map_guest
from cvqd.own_commands import pairs_of
from cvqd.wire import net_config
from cvqd.wire.vhost_user import PROTOCOL_FEATURES_SERVED, FrontRequest, ProtocolFeature
from cvqd.wire.virtio import Feature, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from cvqd.core.memory_table import MemoryRegion
    from cvqd.events import EventLog
    from cvqd.host.listener import Connection
    from cvqd.move import Move
    from cvqd.owner import Owner
    from cvqd.wire.vhost_user import FileDescriptor

_Error = TypeVar("_Error", bound=BaseException)


class Backend:
    """Serves one front-end after another on behalf of one owner."""

    def __init__(
        self, owner: Owner, log: EventLog, nursery: trio.Nursery, *, offers_inband: bool = False
    ) -> None:
        self._owner = owner
        self._log = log
        self._nursery = nursery
        self._offers_inband = offers_inband
        self._session: Session | None = None
        self._device_state: DeviceState
        self._calls = CallDescriptors(log)
        #: kick descriptors of rings that do not run, and whether one rang since the last stop
        self._kicks = DoorbellSet()
        self._kicked = False
        #: rings that a front-end without SET_VRING_ENABLE left, until they get another kick descriptor
        self._left: set[int] = set()
        self._busy = trio.Lock()

    @property
    def connected(self) -> bool:
        """Whether a front-end is there."""
        return self._session is not None

    @property
    def bridged(self) -> frozenset[int]:
        """Rings whose calls pass through the daemon."""
        return self._calls.bridged

    async def serve(self, connection: Connection) -> None:
        """Serve a front-end until it leaves or breaks the protocol; the device is stopped afterwards."""
        offer = self._owner.current.offer
        session = self._session = Session(
            Offer(
                offer.features & ~Feature.PROTOCOL_FEATURES.mask,
                rings=2 * offer.max_pairs + 1,
                ring_size=self._owner.current.facts.vring_num,
                protocol_features=self._protocol_features(),
            )
        )
        self._log.emit("frontend.connected")
        reason = "the daemon ends"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._calls.run)
                nursery.start_soon(self._await_kick, session, connection)
                nursery.start_soon(self._await_failure, session, connection)
                self._device_state = DeviceState(self._owner, self._log, nursery)
                await self._converse(session, connection)
                reason = "the front-end closed the connection"
                nursery.cancel_scope.cancel()
        except* FrontendError as group:
            error = _first(group)
            reason = str(error)
            self._log.emit("frontend.refused", request=error.request, reason=error.reason)
        except* DeviceError as group:
            reason = self._device_failed(_first(group))
        except* GuestError as group:
            reason = str(_first(group))
            self._log.emit("cvq.broken", reason=_first(group).reason, detail=_first(group).detail)
        except* OSError as group:
            reason = str(_first(group))
            self._log.emit("frontend.failed", reason=reason)
        finally:
            with trio.CancelScope(shield=True):
                await self._hang_up(session, reason)

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[Session | None]:
        """Hold back what the front-end says next; its session, if there is one."""
        async with self._busy:
            yield self._session

    async def config_changed(self) -> None:
        """Read the configuration that the device says has changed, and let the front-end know."""
        # the same interrupt says that a device has failed, virtio 1.3 §2.1.2
        self._owner.recovery.suspect()
        async with self._busy:
            try:
                await self._owner.refresh_config()
            except DeviceError as error:
                self._device_failed(error)
                return
            if self._session is not None and self._session.backend_channel is not None:
                send_config_change(self._session.backend_channel)

    async def announce(self) -> None:
        """Ask the guest to announce itself to its network; RequestError where it cannot be asked."""
        async with self._busy:
            channel = self._session.backend_channel if self._session is not None else None
            self._owner.announce()
            if channel is None or not send_config_change(channel):
                raise RequestError("the front-end cannot be told; the guest sees it when it looks next")

    async def move(self, flow: Callable[[], Awaitable[Move]]) -> Move:
        """Have the guest moved to another device while no message of its front-end is handled."""
        async with self._busy:
            owner, session = self._owner, self._session
            if session is None:
                raise RequestError("no front-end is connected")
            told = owner.life.config()
            move = await flow()
            # what the next driver may take is what both devices offer
            session.narrow(owner.current.offer.features)
            if not owner.running:
                self._stopped(session, move.bases)
            elif owner.life.config() != told and session.backend_channel is not None:
                send_config_change(session.backend_channel)
            return move

    def _protocol_features(self) -> int:
        """A device without an MTU of its own gives nothing to check a front-end's against."""
        has_mtu = self._owner.current.facts.features & Feature.MTU.mask
        served = PROTOCOL_FEATURES_SERVED if has_mtu else PROTOCOL_FEATURES_SERVED & ~ProtocolFeature.MTU.mask
        return served | (ProtocolFeature.INBAND_NOTIFICATIONS.mask if self._offers_inband else 0)

    async def _converse(self, session: Session, connection: Connection) -> None:
        while (message := await connection.receive()) is not None:
            if message.request == FrontRequest.CHECK_DEVICE_STATE:
                # a pipe may be slow, and others need not wait for it
                await self._device_state.settled()
            async with self._busy:
                effect = session.receive(message)
                result: Result = None
                if effect is not None:
                    result = await self._perform(session, effect, message.name)
                else:
                    await self._take_barrier(session, message.request)
                # what was refused is taken back by the reply: until then the session says more than is so
                if not isinstance(effect, RingKicked) and not isinstance(result, Refusal):
                    await self._settle(session, connection)
                reply = session.reply(message, result)
            if reply is not None:
                await connection.send(reply)

    async def _take_barrier(self, session: Session, request: int) -> None:
        """GET_FEATURES is all that virtio_uml says before it frees its rings, unless bit 30 was acknowledged.

        Then it disables none of them (``vhost_user_set_vring_enable``, arch/um/drivers/virtio_uml.c).
        """
        if request == FrontRequest.GET_FEATURES and session.implicit_enable and self._owner.running:
            self._left.update(self._owner.running)
            await self._stop(session, "a front-end without SET_VRING_ENABLE may free its rings now")
            self._owner.life.left()
            for ring in session.rings.values():
                if ring.kick is not None:
                    # only a kick from now on says that it was a mere barrier and the rings are in use
                    drain(ring.kick.fileno())

    async def _await_kick(self, session: Session, connection: Connection) -> None:
        """A kick may be the first sign that a front-end has set up all the rings it will."""
        while True:
            await self._kicks.wait()
            async with self._busy:
                self._kicked = True
                self._left.clear()
                await self._settle(session, connection)

    async def _await_failure(self, session: Session, connection: Connection) -> None:
        """Reset a device that fails under its guest and go on with it; DeviceError where that is no help."""
        owner = self._owner
        while True:
            await owner.recovery.suspicion()
            async with self._busy:
                begun, reason = monotonic_ns(), await owner.ailment()
                while reason is not None:
                    self._log.emit("device.needs_reset", reason=reason)
                    owner.recovery.attempt(reason)
                    await self._stop(session, reason, failed=True)
                    try:
                        await self._start(session, self._readiness(session, connection))
                    except DeviceError as error:
                        reason = str(error)
                        continue
                    self._log.emit("device.recovered", elapsed_us=(monotonic_ns() - begun) // 1000)
                    break

    async def _perform(self, session: Session, effect: Effect, request: str) -> Result:
        owner = self._owner
        if isinstance(effect, RingConfigured) and inband.lend_kick(session, effect.index):
            self._watch(None, session.rings[effect.index].kick)
        match effect:
            case RingKicked(index):
                # of a ring that does not run it is watched: it may be what the start waits for
                inband.kick(session, index)
            case SetFeatures(features):
                return await self._set_features(features)
            case MemoryChanged(removed, added):
                self._check_reach(request, added)
                mapped = {
                    region.guest_address: map_guest(
                        request, region.descriptor.fileno(), region.size, region.mmap_offset
                    )
                    for region in added
                }
                if owner.memory.displaces(mapped) or any(
                    owner.uses(old.guest_address, old.size) for old in removed
                ):
                    await self._stop(session, f"{request} moves its memory")
                await owner.memory.change([region.guest_address for region in removed], mapped)
            case RingConfigured(index):
                if index in owner.running:
                    await self._stop(session, f"{request} changes ring {index}")
                if request == FrontRequest.SET_VRING_ADDR.name:
                    self._check_ring(session, index)
            case RingDescriptorChanged(index, RingDescriptor.KICK, old):
                self._left.discard(index)
                inband.lend_kick(session, index)
                self._watch(old, session.rings[index].kick)
                self._check_ring(session, index)
                await self._rebind(session, index)
            case RingDescriptorChanged(index, RingDescriptor.CALL):
                await self._rebind(session, index)
            case RingEnabled(index):
                self._check_ring(session, index)
                # never refused, whatever the device says: QEMU would abort (virtio_net_set_queue_pairs)
                await owner.set_pairs(self._pairs(session))
            case RingStopped(index):
                if index in owner.running:
                    await self._stop(session, f"{request} of ring {index}")
                self._watch(effect.kick, None)
                # the number of a closed descriptor is soon another's
                self._calls.close(self._calls.detach(index))
                return session.rings[index].base
            case ReadConfig(offset, size):
                config = await owner.read_config()
                if offset + size > len(config):
                    return Refusal(f"{offset}+{size} is outside the {len(config)} bytes of configuration")
                return config[offset : offset + size]
            case WriteConfig():
                # virtio 1.3 §5.1.4.2: the driver MUST NOT write to device configuration fields
                return Refusal("a network device's configuration is read-only")
            case SetMtu(mtu):
                most = net_config.decode(owner.life.config()).mtu
                # virtio 1.3 §5.1.4.1: the least that a device may have is 68
                if not 68 <= mtu <= most:
                    reason = f"an MTU of {mtu} is not 68 to the device's {most}"
                    self._log.emit("frontend.denied", request=request, reason=reason)
                    return Refusal(reason)
            case SetStatus(_, 0):
                await self._stop(session, "the driver reset the device")
                owner.life.left("the driver reset the device")
            case SetStatus():
                for index in session.rings:
                    self._check_ring(session, index)
            case ResetDevice():
                await self._stop(session, request)
                owner.life.left(request)
            case TransferDeviceState():
                return self._device_state.begin(effect, session.rings)
            case CheckDeviceState():
                return self._device_state.check()
            case RingDescriptorChanged() | GetStatus():
                pass
        return None

    async def _set_features(self, features: int) -> Result:
        owner = self._owner
        if owner.running:
            return None if features == owner.features else Refusal("the device is running")
        if (reason := objection(owner.word(features))) is not None:
            self._log.emit("frontend.denied", request=FrontRequest.SET_FEATURES.name, reason=reason)
            return Refusal(reason)
        try:
            await owner.negotiate(features)
        except DeviceError as error:
            self._device_failed(error)
            return Refusal(str(error))
        return None

    async def _settle(self, session: Session, connection: Connection) -> None:
        """Start or stop the device if that is what the session now amounts to."""
        owner = self._owner
        ready = self._readiness(session, connection)
        if owner.running:
            if wants_stop(ready, owner.running):
                await self._stop(session, "the front-end stopped every ring")
                owner.life.left()
            elif not ready.expected & ready.complete <= owner.running:
                await self._stop(session, "a ring was completed while the device ran")
                await self._start(session, ready)
        elif wants_start(ready):
            await self._start(session, ready)
        elif not ready.first_pair <= ready.complete:
            owner.life.left()

    async def _start(self, session: Session, ready: Readiness) -> None:
        rings = {index: self._guest_ring(session, index) for index in ready.complete & ready.expected}
        control = rings.pop(ready.cvq, None) if ready.cvq is not None else None
        for ring in session.rings.values():
            if ring.kick is not None:
                self._kicks.discard(ring.kick.fileno())
        await self._owner.start(
            [rings[index] for index in sorted(rings)],
            control,
            self._nursery,
            pairs=self._pairs(session),
        )

    async def _stop(self, session: Session, reason: str, *, failed: bool = False) -> None:
        """Stop the device; the session's rings go on where it stood."""
        self._stopped(session, await self._owner.stop(reason, failed=failed))

    def _stopped(self, session: Session, bases: Mapping[int, int]) -> None:
        self._kicked = False
        for index, base in bases.items():
            session.rings[index].base = base
        if bases:
            for ring in session.rings.values():
                if ring.kick is not None:
                    self._kicks.add(ring.kick.fileno())

    def _readiness(self, session: Session, connection: Connection) -> Readiness:
        return Readiness.of(
            session,
            cvq=self._owner.guest_cvq,
            pairs=self._owner.guest_pairs,
            left=frozenset(self._left),
            kicked=self._kicked,
            unread=connection.pending(),
        )

    def _pairs(self, session: Session) -> int:
        """Queue pairs that the front-end wants run."""
        usable = {i for i, ring in session.rings.items() if ring.enabled and session.ring_usable(i)}
        return pairs_of(usable, self._owner.guest_pairs)

    def _check_ring(self, session: Session, index: int) -> None:
        """A ring that should run with everything but memory under it is a mistake worth naming.

        Whoever speaks of status says when: until then rings and memory may come in any order.
        """
        should = not session.status_negotiated or session.status & Status.DRIVER_OK
        if should and session.rings[index].enabled and session.ring_complete(index):
            session.guest_ring(index)

    def _check_reach(self, request: str, regions: tuple[MemoryRegion, ...]) -> None:
        first, last = self._owner.current.facts.iova
        for region in regions:
            if region.guest_address < first or region.guest_address + region.size - 1 > last:
                raise FrontendError(
                    request,
                    f"region {region.guest_address:#x}+{region.size:#x} is outside"
                    f" the device's addresses {first:#x} to {last:#x}",
                )

    def _watch(self, old: FileDescriptor | None, new: FileDescriptor | None) -> None:
        if old is not None:
            self._kicks.discard(old.fileno())
        if new is not None and not self._owner.running:
            self._kicks.add(new.fileno())

    async def _rebind(self, session: Session, index: int) -> None:
        """A ring has another descriptor; what stood in for the old one ends with it, running or not."""
        stand_in = self._calls.detach(index)
        try:
            if index not in self._owner.running:
                return
            if session.rings[index].kick is None:
                await self._stop(session, f"ring {index} has no kick any more")
                return
            await self._owner.rebind(self._guest_ring(session, index))
        finally:
            self._calls.close(stand_in)

    def _guest_ring(self, session: Session, index: int) -> GuestRing:
        ring = session.rings[index]
        assert ring.kick is not None
        never_wait(ring.kick.fileno())
        return GuestRing(
            index,
            ring.num,
            session.guest_ring(index),
            ring.base,
            ring.kick.fileno(),
            self._calls.lend(
                index,
                ring.call,
                ours=index == self._owner.guest_cvq,
                message=inband.call(session, index) if session.inband else None,
            ),
        )

    def _device_failed(self, error: DeviceError) -> str:
        self._log.emit("device.failed", call=error.call, errno=error.errno, reason=error.reason)
        return str(error)

    async def _hang_up(self, session: Session, reason: str) -> None:
        # memory goes, whatever the device says to a stop
        for step in (partial(self._owner.stop, reason), self._owner.memory.release):
            try:
                await step()
            except DeviceError as error:
                self._device_failed(error)
        self._owner.life.left()
        self._owner.life.unload("its front-end left before a driver ran", BY_FRONT_END)
        self._calls.close_all()
        for ring in session.rings.values():
            self._watch(ring.kick, None)
        self._kicked = False
        self._left.clear()
        self._session = None
        session.close()
        self._log.emit("frontend.disconnected", reason=reason)


def _first(group: BaseExceptionGroup[_Error]) -> _Error:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return cast("_Error", error)
