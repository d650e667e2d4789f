"""The vhost-user session of one front-end: what it said so far, and what it may say next.

For each message: ``receive`` checks it, updates the session's data and returns
at most one effect; the glue carries that out on the device; ``reply`` then
makes the reply, if there is one.  So whatever a message stops has stopped
before the front-end gets its reply.

Front-ends differ in the order of messages (QEMU enables rings before it
configures them, libkrun sends memory before features).  So no order is
required beyond what it takes to understand a message.

The session owns every descriptor from the message on until it is replaced,
the ring is stopped, the region removed or ``close`` is called.  A descriptor
that the device may still use is closed by the ``reply`` after the effect that
unbinds it.  The session reads from none of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cvqd.core import memory_table
from cvqd.core.session.effects import (
    MemoryChanged,
    Refusal,
    RingDescriptorChanged,
    RingStopped,
)
from cvqd.core.session.requests import HANDLERS, answer
from cvqd.core.session.rules import RULES, UNANSWERABLE, OnRefusal, Rule
from cvqd.core.session.state import SessionState
from cvqd.errors import FrontendError
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_user import FrontRequest, ProtocolFeature, encode_reply
from cvqd.wire.vhost_user_payloads import encode_u64

if TYPE_CHECKING:
    from cvqd.core.memory_table import MemoryRegion
    from cvqd.core.session.effects import Effect, Result
    from cvqd.core.session.offer import Offer
    from cvqd.core.session.rings import Ring
    from cvqd.wire.vhost_user import FileDescriptor, Message


class Session:
    """The protocol state of one vhost-user connection, without the connection itself."""

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self._state = SessionState(offer)
        self._answering: Message | None = None

    @property
    def features(self) -> int:
        """Virtio features as acknowledged, without vhost-user's bit 30; 0 before ``features_set``."""
        return self._state.agreed.features

    @property
    def features_set(self) -> bool:
        """SET_FEATURES was received and not refused."""
        return self._state.agreed.features_set

    @property
    def implicit_enable(self) -> bool:
        """Bit 30 was not acknowledged, so every ring is enabled and SET_VRING_ENABLE is not expected."""
        return self._state.implicit_enable

    @property
    def protocol_features(self) -> int:
        """Protocol features as acknowledged."""
        return self._state.agreed.protocol_features

    @property
    def status(self) -> int:
        """Device status byte, as last set by SET_STATUS."""
        return self._state.agreed.status

    @property
    def status_negotiated(self) -> bool:
        """STATUS was negotiated: the front-end will set DRIVER_OK."""
        return self._state.agreed.has(ProtocolFeature.STATUS)

    @property
    def inband(self) -> bool:
        """Rings without descriptors are kicked and called by messages."""
        return self._state.agreed.has(ProtocolFeature.INBAND_NOTIFICATIONS)

    @property
    def memory(self) -> tuple[MemoryRegion, ...]:
        """Regions in the front-end's order."""
        return self._state.memory.regions

    @property
    def rings(self) -> dict[int, Ring]:
        """Every ring of the offer, configured or not."""
        return self._state.rings.rings

    @property
    def keeps_control_queue(self) -> bool:
        """The front-end serves the guest's control queue itself, although it passes CTRL_VQ on.

        cloud-hypervisor does.  It says the sizes of all its rings before the address of any
        (``virtio-devices/src/vhost_user/vu_common_ctrl.rs``), which shows the rings that it leaves out;
        the front-ends that forward the control queue set up one ring after the other.
        """
        rings = self._state.rings.sized_together
        # virtio 1.3 §5.1.2: behind pairs of rings, the control queue has an even index
        return {0, 1} <= rings and max(rings) % 2 == 1

    @property
    def backend_channel(self) -> FileDescriptor | None:
        """The descriptor of SET_BACKEND_REQ_FD, for ``host.backend_channel``; None before."""
        return self._state.backend_channel

    def ring_complete(self, index: int) -> bool:
        """Memory, NUM, ADDR and KICK have been set; whether the ring is enabled does not matter."""
        return bool(self.memory) and self.rings[index].configured

    def ring_usable(self, index: int) -> bool:
        """A complete ring that lies in the current memory, whose regions may come and go."""
        if not self.ring_complete(index):
            return False
        try:
            self.guest_ring(index)
        except FrontendError:
            return False
        return True

    def guest_address(self, user_address: int, length: int) -> int:
        """Guest-physical address of ``length`` bytes; FrontendError unless they lie in one region."""
        address = memory_table.guest_address(self.memory, user_address, length)
        if address is None:
            raise FrontendError(
                FrontRequest.SET_VRING_ADDR.name, f"{user_address:#x}+{length:#x} does not lie in one region"
            )
        return address

    def guest_ring(self, index: int) -> RingAddresses:
        """Guest-physical addresses of a complete ring in the negotiated format.

        FrontendError if it is not in memory, misaligned, or has a base outside the ring.
        """
        ring = self.rings[index]
        name = FrontRequest.SET_VRING_ADDR.name
        if ring.addresses is None or not ring.num:
            raise FrontendError(name, f"ring {index} has no size or no addresses")
        ring_format = RingFormat.of(self.features)
        if not ring_format.has_base(ring.num, ring.base):
            raise FrontendError(
                FrontRequest.SET_VRING_BASE.name,
                f"base {ring.base:#x} is no place in ring {index} of {ring.num} descriptors",
            )
        guest = RingAddresses(*map(self.guest_address, ring.addresses, ring_format.sizes(ring.num)))
        for part, address, alignment in zip(guest._fields, guest, ring_format.alignment, strict=True):
            if address % alignment:
                raise FrontendError(
                    name, f"{part} of ring {index} at {address:#x} should be aligned to {alignment}"
                )
        return guest

    def narrow(self, features: int) -> None:
        """From now on offer only these features, of those offered when the session began."""
        self._state.reoffer(replace(self.offer, features=self.offer.features & features))

    def receive(self, message: Message) -> Effect | None:
        """Check and apply a message; FrontendError (then ``close``) if the protocol forbids it.

        The session owns the message's descriptors from here on, even after an error.
        """
        state = self._state
        self._answering = message
        state.begin()
        unclaimed = list(message.descriptors)
        effect: Effect | None = None
        try:
            if self._served(message):
                effect = HANDLERS[FrontRequest(message.request)](state, message, unclaimed)
        finally:
            for descriptor in unclaimed:
                descriptor.close()
        match effect:
            case MemoryChanged(removed=removed):
                state.retire(*(region.descriptor for region in removed))
            case RingDescriptorChanged(old=old):
                state.retire(old)
            case RingStopped(kick=kick, call=call):
                state.retire(kick, call)
        return effect

    def reply(self, message: Message, result: Result = None) -> bytes | None:
        """The reply to the last message, after its effect was carried out; None if it has none.

        FrontendError if a refusal leaves the session unusable or cannot be reported.
        """
        if message is not self._answering:
            raise RuntimeError(f"{message.name} is not the message last received, or is answered already")
        self._answering = None
        self._state.close_retired()
        # SET_PROTOCOL_FEATURES has taken effect by now: virtio_uml asks for an acknowledgement
        # even of the message that negotiates REPLY_ACK
        acknowledged = message.need_reply and self._state.agreed.has(ProtocolFeature.REPLY_ACK)
        rule = _rule(message)
        if rule is not None:
            if isinstance(result, Refusal):
                self._refused(message, rule, result, told=acknowledged)
            if rule.answers:
                return encode_reply(message.request, answer(self._state, message, result))
        if not acknowledged:
            return None
        failed = rule is None or isinstance(result, Refusal)
        return encode_reply(message.request, encode_u64(int(failed)))

    def close(self) -> None:
        """Close every descriptor and forget everything.  The device must not use them any more."""
        state = self._state
        state.retire(
            state.backend_channel,
            *(region.descriptor for region in self.memory),
            *state.rings.descriptors(),
        )
        state.close_retired()
        self._state = SessionState(self.offer)

    def _served(self, message: Message) -> bool:
        """Whether the request is to be handled; FrontendError if it breaks its rule."""
        rule = _rule(message)
        if rule is None:
            if message.request in UNANSWERABLE:
                raise FrontendError(message.name, "was not offered and cannot be answered")
            return False
        if rule.needs is not None and not self._state.agreed.has(rule.needs):
            raise FrontendError(message.name, f"protocol feature {rule.needs.name} was not negotiated")
        count = len(message.descriptors)
        if not rule.least <= count <= rule.most:
            raise FrontendError(message.name, f"{count} descriptors, {rule.least} to {rule.most} are allowed")
        return True

    def _refused(self, message: Message, rule: Rule, refusal: Refusal, *, told: bool) -> None:
        if rule.refusal is OnRefusal.IMPOSSIBLE or (rule.refusal is OnRefusal.CLOSE and not told):
            raise FrontendError(message.name, refusal.reason)
        self._state.roll_back()


def _rule(message: Message) -> Rule | None:
    """The request's rule; None if it is not served or has no known number."""
    try:
        return RULES.get(FrontRequest(message.request))
    except ValueError:
        return None
