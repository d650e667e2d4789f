"""The vhost-user session of one front-end: what it said so far, and what it may say next.

For each message: ``receive`` checks it, takes it into the session's data and
returns at most one effect; the glue carries that out on the device; ``reply``
then makes the one answer, if there is to be one.  So whatever a message stops
has stopped before the front-end hears of it.

Front-ends differ in the order of messages (QEMU enables rings before it
configures them, libkrun sends memory before features), therefore no order is
demanded; only what a message needs to be understood.

The session owns every descriptor from the message on until it is replaced,
the ring is stopped, the region removed or ``close`` is called; one that the
device may still use is closed by the ``reply`` after the effect that unbinds
it.  It reads none.
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
    """One connection's worth of vhost-user, without the connection."""

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
        """SET_FEATURES has come and was not refused."""
        return self._state.agreed.features_set

    @property
    def implicit_enable(self) -> bool:
        """Bit 30 was not acknowledged: every ring is enabled, and none will ever be disabled."""
        return self._state.implicit_enable

    @property
    def protocol_features(self) -> int:
        """Protocol features as acknowledged."""
        return self._state.agreed.protocol_features

    @property
    def status(self) -> int:
        """Device status byte of the last SET_STATUS."""
        return self._state.agreed.status

    @property
    def status_negotiated(self) -> bool:
        """The front-end will say DRIVER_OK."""
        return self._state.agreed.has(ProtocolFeature.STATUS)

    @property
    def inband(self) -> bool:
        """Kicks and calls of rings without descriptors are messages."""
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
    def backend_channel(self) -> FileDescriptor | None:
        """Where ``host.backend_channel`` may write, once SET_BACKEND_REQ_FD has come."""
        return self._state.backend_channel

    def ring_complete(self, index: int) -> bool:
        """Memory, NUM, ADDR and KICK are there; ENABLE is a question of its own."""
        return bool(self.memory) and self.rings[index].configured

    def ring_usable(self, index: int) -> bool:
        """A complete ring that lies in memory as it is now: a region under it may come and go."""
        if not self.ring_complete(index):
            return False
        try:
            self.guest_ring(index)
        except FrontendError:
            return False
        return True

    def guest_address(self, user_address: int, length: int) -> int:
        """Guest-physical address of bytes inside one region; FrontendError if there is no such region."""
        address = memory_table.guest_address(self.memory, user_address, length)
        if address is None:
            raise FrontendError(
                FrontRequest.SET_VRING_ADDR.name, f"{user_address:#x}+{length:#x} does not lie in one region"
            )
        return address

    def guest_ring(self, index: int) -> RingAddresses:
        """Guest-physical addresses of a complete ring in the negotiated format.

        FrontendError if it lies outside memory or askew, or goes on where it has no place.
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
        """Offer no more than these features, of those that were offered when the session began."""
        self._state.reoffer(replace(self.offer, features=self.offer.features & features))

    def receive(self, message: Message) -> Effect | None:
        """Check a message and take it in; FrontendError (then ``close``) if the protocol forbids it.

        The message's descriptors are the session's from here on, error or not.
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
        """The answer to the message last received, now that its effect has happened; None for no answer.

        FrontendError if a refusal leaves the session unusable or cannot be said.
        """
        if message is not self._answering:
            raise RuntimeError(f"{message.name} is not the message last received, or is answered already")
        self._answering = None
        self._state.close_retired()
        # SET_PROTOCOL_FEATURES has taken effect by now: virtio_uml asks for the acknowledgement
        # of the very message that negotiates acknowledgements
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
        """Close every descriptor and forget everything.  The device must have let go of them."""
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
    """None for a request that is not served, with or without a name."""
    try:
        return RULES.get(FrontRequest(message.request))
    except ValueError:
        return None
