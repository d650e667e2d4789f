"""Each served vhost-user request: what it does to a session's data, and the content of its reply.

One function per request, in ``HANDLERS``.  It decodes the payload, changes the
state and returns the effect on the device.  It takes the descriptors that it
keeps out of ``unclaimed``, and the caller closes the rest.  The number of
descriptors and the protocol features that a request needs have been checked
before (``core.session.rules``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cvqd.core.session.effects import (
    CheckDeviceState,
    Effect,
    GetStatus,
    MemoryChanged,
    ReadConfig,
    Refusal,
    ResetDevice,
    Result,
    RingDescriptor,
    RingDescriptorChanged,
    RingKicked,
    RingStopped,
    SetMtu,
    TransferDeviceState,
    WriteConfig,
)
from cvqd.core.session.state import SessionState
from cvqd.errors import FrontendError
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.vhost_user import (
    MAX_TABLE_REGIONS,
    DescriptorKind,
    FileDescriptor,
    FrontRequest,
    Message,
    ProtocolFeature,
)
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from cvqd.core.session.effects import SetFeatures, SetStatus

Unclaimed = list[FileDescriptor]
Handler = Callable[[SessionState, Message, Unclaimed], Effect | None]


def answer(state: SessionState, message: Message, result: Result) -> bytes:
    """Payload of the reply to a request that always has one, whatever its flags."""
    match message.request:
        case FrontRequest.GET_FEATURES:
            return payloads.encode_u64(state.offer.word)
        case FrontRequest.GET_PROTOCOL_FEATURES:
            return payloads.encode_u64(state.offer.protocol_features)
        case FrontRequest.GET_QUEUE_NUM:
            return payloads.encode_u64(state.offer.rings)
        case FrontRequest.GET_MAX_MEM_SLOTS:
            return payloads.encode_u64(state.offer.memory_slots)
        case FrontRequest.GET_STATUS:
            return payloads.encode_u64(result if isinstance(result, int) else state.agreed.status)
        case FrontRequest.GET_VRING_BASE:
            index = payloads.decode_vring_state(message.name, message.payload).index
            ring = state.rings.rings[index]
            if isinstance(result, int):
                ring.base = result
            return payloads.VringState(index, ring.base).encode()
        case FrontRequest.GET_CONFIG:
            request = payloads.decode_config(message.name, message.payload)
            if not isinstance(result, bytes):
                return b""  # an empty payload is GET_CONFIG's error
            if len(result) != len(request.data):
                raise ValueError(f"{len(result)} bytes of configuration where {len(request.data)} were asked")
            return request._replace(data=result).encode()
        case FrontRequest.SET_DEVICE_STATE_FD:
            return payloads.encode_transfer_begun(refused=isinstance(result, Refusal))
        case FrontRequest.CHECK_DEVICE_STATE:
            return payloads.encode_u64(int(isinstance(result, Refusal)))
        case _:
            raise AssertionError(f"{message.name} has a rule with an answer, and no answer")


def _nothing(_state: SessionState, _message: Message, _unclaimed: Unclaimed) -> None:
    """SET_OWNER and RESET_OWNER need no action; most GET requests only need ``answer``."""


def _set_features(state: SessionState, message: Message, _unclaimed: Unclaimed) -> SetFeatures:
    agreed, rings = state.agreed, state.rings
    before = agreed.features, agreed.features_set, state.implicit_enable, rings.enabled()
    effect = agreed.set_features(payloads.decode_u64(message.name, message.payload))

    def roll_back() -> None:
        agreed.features, agreed.features_set, state.implicit_enable, enabled = before
        rings.enable_exactly(enabled)

    state.roll_back = roll_back
    # virtio_uml negotiates anew on the same connection: when bit 30 comes back, rings that were
    # enabled only for the lack of it are disabled again; with front-ends that always send it
    # neither branch is taken
    if effect.implicit_enable:
        rings.enable_exactly(frozenset(rings.rings))
    elif state.implicit_enable:
        rings.enable_exactly(frozenset())
    state.implicit_enable = effect.implicit_enable
    return effect


def _set_protocol_features(state: SessionState, message: Message, _unclaimed: Unclaimed) -> None:
    state.agreed.set_protocol_features(payloads.decode_u64(message.name, message.payload))


def _set_mem_table(state: SessionState, message: Message, unclaimed: Unclaimed) -> MemoryChanged:
    table = payloads.decode_memory_table(message.name, message.payload)
    slots = state.agreed.has(ProtocolFeature.CONFIGURE_MEM_SLOTS)
    return state.memory.replace(table, unclaimed, state.offer.memory_slots if slots else MAX_TABLE_REGIONS)


def _add_mem_reg(state: SessionState, message: Message, unclaimed: Unclaimed) -> MemoryChanged:
    region = payloads.decode_single_region(message.name, message.payload)
    return state.memory.add(region, unclaimed, state.offer.memory_slots)


def _rem_mem_reg(state: SessionState, message: Message, _unclaimed: Unclaimed) -> MemoryChanged:
    return state.memory.remove(payloads.decode_single_region(message.name, message.payload))


def _set_vring_num(state: SessionState, message: Message, _unclaimed: Unclaimed) -> Effect:
    return state.rings.set_num(message.name, payloads.decode_vring_state(message.name, message.payload))


def _set_vring_addr(state: SessionState, message: Message, _unclaimed: Unclaimed) -> Effect:
    return state.rings.set_address(message.name, payloads.decode_vring_address(message.name, message.payload))


def _set_vring_base(state: SessionState, message: Message, _unclaimed: Unclaimed) -> Effect:
    base = payloads.decode_vring_state(message.name, message.payload)
    agreed = state.agreed
    # if the base comes before the features, Session.guest_ring checks it later
    split = agreed.features_set and not agreed.features & Feature.RING_PACKED.mask
    return state.rings.set_base(message.name, base, 0xFFFF if split else 0xFFFF_FFFF)


def _get_vring_base(state: SessionState, message: Message, _unclaimed: Unclaimed) -> RingStopped:
    requested = payloads.decode_vring_state(message.name, message.payload)
    return state.rings.stop(message.name, requested.index)


def _set_vring_descriptor(
    state: SessionState, message: Message, unclaimed: Unclaimed
) -> RingDescriptorChanged:
    target = payloads.decode_vring_descriptor(message.name, message.payload)
    which = _RING_DESCRIPTORS[FrontRequest(message.request)]
    inband = state.agreed.has(ProtocolFeature.INBAND_NOTIFICATIONS)
    return state.rings.set_descriptor(message.name, which, target, unclaimed, inband=inband)


def _vring_kick(state: SessionState, message: Message, _unclaimed: Unclaimed) -> RingKicked:
    index = payloads.decode_vring_state(message.name, message.payload).index
    state.rings.ring(message.name, index)
    return RingKicked(index)


def _set_vring_enable(state: SessionState, message: Message, _unclaimed: Unclaimed) -> Effect | None:
    return state.rings.enable(message.name, payloads.decode_vring_state(message.name, message.payload))


def _net_set_mtu(_state: SessionState, message: Message, _unclaimed: Unclaimed) -> SetMtu:
    return SetMtu(payloads.decode_u64(message.name, message.payload))


def _set_backend_req_fd(state: SessionState, message: Message, unclaimed: Unclaimed) -> None:
    kind = unclaimed[0].kind
    if kind not in (DescriptorKind.SOCKET, DescriptorKind.PIPE):
        raise FrontendError(message.name, f"the channel is a socket or a pipe, not a {kind.value}")
    state.retire(state.backend_channel)
    state.backend_channel = unclaimed.pop()


def _get_config(_state: SessionState, message: Message, _unclaimed: Unclaimed) -> ReadConfig:
    access = payloads.decode_config(message.name, message.payload)
    return ReadConfig(access.offset, len(access.data))


def _set_config(_state: SessionState, message: Message, _unclaimed: Unclaimed) -> WriteConfig:
    access = payloads.decode_config(message.name, message.payload)
    return WriteConfig(access.offset, access.data, access.flags)


def _set_status(state: SessionState, message: Message, _unclaimed: Unclaimed) -> SetStatus:
    effect = state.agreed.set_status(payloads.decode_u64(message.name, message.payload))

    def roll_back() -> None:
        state.agreed.status = effect.old

    state.roll_back = roll_back
    return effect


def _get_status(_state: SessionState, _message: Message, _unclaimed: Unclaimed) -> GetStatus:
    return GetStatus()


def _reset_device(state: SessionState, _message: Message, _unclaimed: Unclaimed) -> ResetDevice:
    state.rings.enable_exactly(frozenset())
    state.agreed.status = 0
    return ResetDevice()


def _set_device_state_fd(_state: SessionState, message: Message, unclaimed: Unclaimed) -> TransferDeviceState:
    direction = payloads.decode_device_state(message.name, message.payload)
    kind = unclaimed[0].kind
    if kind not in (DescriptorKind.SOCKET, DescriptorKind.PIPE):
        raise FrontendError(message.name, f"state goes through a pipe or a socket, not a {kind.value}")
    return TransferDeviceState(direction, unclaimed.pop())


def _check_device_state(_state: SessionState, _message: Message, _unclaimed: Unclaimed) -> CheckDeviceState:
    return CheckDeviceState()


_RING_DESCRIPTORS: Final = {
    FrontRequest.SET_VRING_KICK: RingDescriptor.KICK,
    FrontRequest.SET_VRING_CALL: RingDescriptor.CALL,
    FrontRequest.SET_VRING_ERR: RingDescriptor.ERR,
}

HANDLERS: Final[dict[FrontRequest, Handler]] = {
    FrontRequest.GET_FEATURES: _nothing,
    FrontRequest.SET_FEATURES: _set_features,
    FrontRequest.SET_OWNER: _nothing,
    FrontRequest.RESET_OWNER: _nothing,
    FrontRequest.SET_MEM_TABLE: _set_mem_table,
    FrontRequest.SET_VRING_NUM: _set_vring_num,
    FrontRequest.SET_VRING_ADDR: _set_vring_addr,
    FrontRequest.SET_VRING_BASE: _set_vring_base,
    FrontRequest.GET_VRING_BASE: _get_vring_base,
    FrontRequest.SET_VRING_KICK: _set_vring_descriptor,
    FrontRequest.SET_VRING_CALL: _set_vring_descriptor,
    FrontRequest.SET_VRING_ERR: _set_vring_descriptor,
    FrontRequest.GET_PROTOCOL_FEATURES: _nothing,
    FrontRequest.SET_PROTOCOL_FEATURES: _set_protocol_features,
    FrontRequest.GET_QUEUE_NUM: _nothing,
    FrontRequest.SET_VRING_ENABLE: _set_vring_enable,
    FrontRequest.NET_SET_MTU: _net_set_mtu,
    FrontRequest.VRING_KICK: _vring_kick,
    FrontRequest.SET_BACKEND_REQ_FD: _set_backend_req_fd,
    FrontRequest.GET_CONFIG: _get_config,
    FrontRequest.SET_CONFIG: _set_config,
    FrontRequest.RESET_DEVICE: _reset_device,
    FrontRequest.GET_MAX_MEM_SLOTS: _nothing,
    FrontRequest.ADD_MEM_REG: _add_mem_reg,
    FrontRequest.REM_MEM_REG: _rem_mem_reg,
    FrontRequest.SET_STATUS: _set_status,
    FrontRequest.GET_STATUS: _get_status,
    FrontRequest.SET_DEVICE_STATE_FD: _set_device_state_fd,
    FrontRequest.CHECK_DEVICE_STATE: _check_device_state,
}
