"""One front-end, from its first message to its last: what each does to the owned device.

The session takes in a message, it is carried out here, and only then answered.
The start rule is applied before the answer, so a device that should stop has
stopped before its front-end gets any reply, even that to a bare GET_FEATURES.
"""

from __future__ import annotations

from errno import EIO
from functools import partial
from typing import TYPE_CHECKING

import trio

from cvqd.core.features import objection
from cvqd.core.session.effects import (
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
from cvqd.errors import DeviceError
from cvqd.frontend import inband
from cvqd.frontend.device_state import HOW as BY_FRONT_END
from cvqd.frontend.device_state import DeviceState
from cvqd.frontend.idle_rings import IdleRings
from cvqd.frontend.starter import Starter
from cvqd.host.shared_memory import map_guest
from cvqd.owner.owned_device import tell_failed
from cvqd.wire import net_config
from cvqd.wire.vhost_user import FrontRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cvqd.core.session.session import Session
    from cvqd.events import EventLog
    from cvqd.frontend.call_descriptors import CallDescriptors
    from cvqd.host.doorbell import DoorbellSet
    from cvqd.host.listener import Connection
    from cvqd.owner.owner import Owner


class Conversation:
    """Made for one connection; whoever does something to the device holds ``turn``.

    ``calls`` and ``kicks`` outlive it: a front-end must not fail for want of a descriptor.
    """

    def __init__(
        self,
        session: Session,
        connection: Connection,
        owner: Owner,
        log: EventLog,
        *,
        calls: CallDescriptors,
        kicks: DoorbellSet,
        turn: trio.Lock,
        nursery: trio.Nursery,
    ) -> None:
        self.session = session
        self.calls = calls
        self._connection = connection
        self._owner = owner
        self._log = log
        self._idle = IdleRings(session, kicks)
        self._starter = Starter(session, connection, owner, log, calls, self._idle, nursery)
        self._turn = turn
        self._device_state: DeviceState
        #: set when nobody knows where the guest's rings stand
        self._lost = trio.Event()

    async def run(self) -> None:
        """Serve the front-end until it closes the connection; an error says whose fault it was."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.calls.run)
            nursery.start_soon(self._await_kick)
            nursery.start_soon(self._await_failure)
            nursery.start_soon(self._await_loss)
            self._device_state = DeviceState(self._owner, self._log, nursery)
            await self._converse()
            nursery.cancel_scope.cancel()

    async def _converse(self) -> None:
        while (message := await self._connection.receive()) is not None:
            if message.request == FrontRequest.CHECK_DEVICE_STATE:
                # a pipe may be slow, and others need not wait for it
                await self._device_state.settled()
            async with self._turn:
                effect = self.session.receive(message)
                result: Result = None
                if effect is not None:
                    result = await self._perform(effect, message.name)
                else:
                    await self._take_barrier(message.request)
                # only the reply takes back what was refused: until then the session claims too much
                if not isinstance(effect, RingKicked) and not isinstance(result, Refusal):
                    await self._starter.settle()
                reply = self.session.reply(message, result)
            if reply is not None:
                await self._connection.send(reply)

    async def _take_barrier(self, request: int) -> None:
        """Stop at GET_FEATURES: it is all that virtio_uml sends before it frees its rings without bit 30.

        It does not disable them then (``vhost_user_set_vring_enable``, arch/um/drivers/virtio_uml.c).
        """
        if request == FrontRequest.GET_FEATURES and self.session.implicit_enable and self._owner.running:
            left = self._owner.running
            await self._starter.stop("a front-end without SET_VRING_ENABLE may free its rings now")
            self._owner.life.left()
            self._idle.leave(left)

    async def _await_kick(self) -> None:
        """A kick may be the first sign that a front-end has set up all the rings it will."""
        while True:
            await self._idle.ring()
            async with self._turn:
                self._idle.rang()
                await self._starter.settle()

    async def _await_failure(self) -> None:
        """Check the device whenever something about it is suspicious."""
        while True:
            await self._owner.recovery.suspicion()
            async with self._turn:
                await self._starter.recover()

    async def _await_loss(self) -> None:
        """DeviceError when nobody knows where the guest's rings stand: it cannot go on."""
        await self._lost.wait()
        raise DeviceError("VHOST_GET_VRING_BASE", EIO, "nobody knows where the rings of the guest stand")

    async def _perform(self, effect: Effect, request: str) -> Result:
        owner = self._owner
        if isinstance(effect, RingConfigured) and inband.lend_kick(self.session, effect.index):
            self._starter.watch(None, self.session.rings[effect.index].kick)
        match effect:
            case RingKicked(index):
                # while the ring does not run it is watched: the start may be waiting for it
                inband.kick(self.session, index)
            case SetFeatures(features):
                return await self._set_features(features)
            case MemoryChanged(removed, added):
                owner.memory.check_reach(request, added)
                mapped = {
                    region.guest_address: map_guest(
                        request, region.descriptor.fileno(), region.size, region.mmap_offset
                    )
                    for region in added
                }
                if owner.memory.displaces(mapped) or any(
                    owner.uses(old.guest_address, old.size) for old in removed
                ):
                    await self._starter.stop(f"{request} moves its memory")
                await owner.memory.change([region.guest_address for region in removed], mapped)
            case RingConfigured(index):
                if index in owner.running:
                    await self._starter.stop(f"{request} changes ring {index}")
                if request == FrontRequest.SET_VRING_ADDR.name:
                    self._starter.check_ring(index)
            case RingDescriptorChanged(index, RingDescriptor.KICK, old):
                self._idle.come_back(index)
                inband.lend_kick(self.session, index)
                self._starter.watch(old, self.session.rings[index].kick)
                self._starter.check_ring(index)
                await self._starter.rebind(index)
            case RingDescriptorChanged(index, RingDescriptor.CALL):
                await self._starter.rebind(index)
            case RingEnabled(index):
                self._starter.check_ring(index)
                # never refused, whatever the device says: QEMU would abort (virtio_net_set_queue_pairs)
                await owner.set_pairs(self._starter.pairs())
            case RingStopped(index):
                if index in owner.running:
                    await self._starter.stop(f"{request} of ring {index}")
                self._starter.watch(effect.kick, None)
                # the number of a closed descriptor is soon reused
                self.calls.close(self.calls.detach(index))
                return self.session.rings[index].base
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
                # virtio 1.3 §5.1.4.1: a device's MTU is at least 68
                if not 68 <= mtu <= most:
                    reason = f"an MTU of {mtu} is not 68 to the device's {most}"
                    self._log.emit("frontend.denied", request=request, reason=reason)
                    return Refusal(reason)
            case SetStatus(_, 0):
                reason = "the driver reset the device"
                await self._starter.stop(reason)
                # or QEMU paused its guest (``vhost_reset_status``, hw/virtio/vhost.c): the rings will tell
                owner.life.left()
                owner.life.unload(reason)
            case SetStatus():
                for index in self.session.rings:
                    self._starter.check_ring(index)
            case ResetDevice():
                await self._starter.stop(request)
                owner.life.left(request)
            case TransferDeviceState():
                return self._device_state.begin(effect, self.session)
            case CheckDeviceState():
                return self._device_state.check()
            case RingDescriptorChanged() | GetStatus():
                pass
        return None

    async def _set_features(self, features: int) -> Result:
        owner = self._owner
        if owner.running:
            return None if self._starter.features == owner.features else Refusal("the device is running")
        if (reason := objection(owner.word(features))) is not None:
            self._log.emit("frontend.denied", request=FrontRequest.SET_FEATURES.name, reason=reason)
            return Refusal(reason)
        try:
            await owner.negotiate(features)
        except DeviceError as error:
            tell_failed(self._log, error)
            return Refusal(str(error))
        return None

    def stopped(self, bases: Mapping[int, int] | None) -> None:
        """Note that a move left the device stopped; ``bases`` by ring, None if nobody knows them."""
        if bases is None:
            self._lost.set()
        else:
            self._starter.stopped(bases)

    async def hang_up(self, reason: str) -> None:
        """Stop the device and give back everything that the front-end lent."""
        owner = self._owner
        # memory is released even if the device does not stop
        for step in (partial(owner.stop, reason), owner.memory.release):
            try:
                await step()
            except DeviceError as error:
                tell_failed(self._log, error)
        owner.life.left()
        owner.life.unload("its front-end left before a driver ran", BY_FRONT_END)
        self.calls.close_all()
        self._idle.end()
        self.session.close()
