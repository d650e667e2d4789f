"""The message orders of real front-ends, as data: generators of steps.

A sequence yields ``Step`` and is sent the reply's payload (None where there is
none), so one sequence serves a socket (``FrontEnd.play``) and a ``Session`` in
memory.  Orders as seen on the wire of virtio_uml (``arch/um/drivers/virtio_uml.c``),
QEMU (``hw/virtio/vhost.c``, ``hw/net/vhost_net.c``), crosvm, libkrun and
cloud-hypervisor (``virtio-devices/src/vhost_user/net.rs``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final, NamedTuple

from cvqd.testing.steps import (
    GuestSetup,
    RingSetup,
    Step,
    config,
    memory_table,
    ring_address,
    ring_descriptor,
    ring_state,
    u64,
)
from cvqd.wire.vhost_user import FrontRequest, ProtocolFeature
from cvqd.wire.vhost_user_payloads import decode_u64
from cvqd.wire.virtio import Feature, Status

Sequence = Generator[Step, bytes | None, None]


class Order(NamedTuple):
    """One front-end: what it says on connecting, when the guest's driver starts, and when it stops."""

    connect: Callable[[GuestSetup], Sequence]
    start: Callable[[GuestSetup], Sequence]
    stop: Callable[[GuestSetup], Sequence]


def _word(*features: ProtocolFeature) -> int:
    return sum(feature.mask for feature in features)


_UML: Final = _word(ProtocolFeature.REPLY_ACK, ProtocolFeature.BACKEND_REQ, ProtocolFeature.CONFIG)
_CROSVM: Final = _word(
    ProtocolFeature.MQ, ProtocolFeature.BACKEND_REQ, ProtocolFeature.CONFIG, ProtocolFeature.DEVICE_STATE
)
_LIBKRUN: Final = _word(ProtocolFeature.MQ, ProtocolFeature.CONFIG)
_CLOUD_HYPERVISOR: Final = _LIBKRUN | _word(
    ProtocolFeature.REPLY_ACK, ProtocolFeature.CONFIGURE_MEM_SLOTS, ProtocolFeature.DEVICE_STATE
)
_QEMU: Final = _word(
    ProtocolFeature.MQ,
    ProtocolFeature.REPLY_ACK,
    ProtocolFeature.BACKEND_REQ,
    ProtocolFeature.CONFIG,
    ProtocolFeature.RESET_DEVICE,
    ProtocolFeature.CONFIGURE_MEM_SLOTS,
    ProtocolFeature.STATUS,
    ProtocolFeature.DEVICE_STATE,
)


def _negotiate(known: int, *, need_reply: bool = False) -> Generator[Step, bytes | None, int]:
    offered = yield Step(FrontRequest.GET_PROTOCOL_FEATURES)
    agreed = known & decode_u64("GET_PROTOCOL_FEATURES", offered or b"")
    yield u64(FrontRequest.SET_PROTOCOL_FEATURES, agreed, need_reply=need_reply)
    return agreed


def _with_bit_30(features: int) -> int:
    return features | Feature.PROTOCOL_FEATURES.mask


def uml_connect(setup: GuestSetup) -> Sequence:
    """At kernel boot; the acknowledgement of SET_PROTOCOL_FEATURES is asked for before it is negotiated."""
    yield Step(FrontRequest.SET_OWNER)
    yield Step(FrontRequest.GET_FEATURES)
    yield from _negotiate(_UML, need_reply=True)
    if setup.channel is not None:
        yield Step(FrontRequest.SET_BACKEND_REQ_FD, b"", (setup.channel,), need_reply=True)


def uml_start(setup: GuestSetup) -> Sequence:
    """At insmod: room for two regions in the table of one, KICK and ENABLE after all rings are set."""
    yield u64(FrontRequest.SET_FEATURES, _with_bit_30(setup.features), need_reply=True)
    for end in range(1, 7):
        yield config(end)
    yield memory_table(setup, need_reply=True, padding=32 if len(setup.memory) == 1 else 0)
    for ring in setup.rings:
        yield ring_descriptor(FrontRequest.SET_VRING_CALL, ring.index, ring.call, need_reply=True)
        yield ring_state(FrontRequest.SET_VRING_NUM, ring.index, ring.num, need_reply=True)
        yield ring_state(FrontRequest.SET_VRING_BASE, ring.index, 0, need_reply=True)
        yield ring_address(ring, log=(1 << 64) - 1, need_reply=True)
    for ring in setup.rings:
        yield ring_descriptor(FrontRequest.SET_VRING_KICK, ring.index, ring.kick, need_reply=True)
        yield ring_state(FrontRequest.SET_VRING_ENABLE, ring.index, 1, need_reply=True)


def uml_stop(setup: GuestSetup) -> Sequence:
    """At rmmod: no GET_VRING_BASE, a barrier instead, then the rings are freed."""
    for ring in reversed(setup.rings):
        yield ring_state(FrontRequest.SET_VRING_ENABLE, ring.index, 0, need_reply=True)
    yield Step(FrontRequest.GET_FEATURES)


def inband_connect(setup: GuestSetup) -> Sequence:
    """virtio_uml where messages are offered: it takes them, and so it must have a channel."""
    yield Step(FrontRequest.SET_OWNER)
    yield Step(FrontRequest.GET_FEATURES)
    yield from _negotiate(_UML | ProtocolFeature.INBAND_NOTIFICATIONS.mask, need_reply=True)
    if setup.channel is not None:
        yield Step(FrontRequest.SET_BACKEND_REQ_FD, b"", (setup.channel,), need_reply=True)


def inband_start(setup: GuestSetup) -> Sequence:
    """As ``uml_start``, without kick and call descriptors."""
    for step in uml_start(setup):
        if step.request not in (FrontRequest.SET_VRING_CALL, FrontRequest.SET_VRING_KICK):
            yield step


def qemu_connect(setup: GuestSetup) -> Sequence:
    """The generic device: SET_OWNER is not first, call descriptors come before any ring exists."""
    yield Step(FrontRequest.GET_FEATURES)
    yield from _negotiate(_QEMU)
    yield Step(FrontRequest.GET_QUEUE_NUM)
    yield Step(FrontRequest.GET_MAX_MEM_SLOTS)
    if setup.channel is not None:
        yield Step(FrontRequest.SET_BACKEND_REQ_FD, b"", (setup.channel,), need_reply=True)
    yield Step(FrontRequest.SET_OWNER)
    yield Step(FrontRequest.GET_FEATURES)
    for ring in setup.rings:
        yield ring_descriptor(FrontRequest.SET_VRING_CALL, ring.index, ring.call, need_reply=True)
    yield config(setup.config_size)


def _qemu_status(bits: Status) -> Sequence:
    now = yield Step(FrontRequest.GET_STATUS)
    yield u64(FrontRequest.SET_STATUS, decode_u64("GET_STATUS", now or b"") | bits)


def _qemu_features(setup: GuestSetup) -> Sequence:
    yield u64(FrontRequest.SET_FEATURES, _with_bit_30(setup.features))
    yield from _qemu_status(Status.FEATURES_OK)


def _qemu_memory(setup: GuestSetup) -> Sequence:
    for region, fd in setup.memory:
        yield Step(FrontRequest.ADD_MEM_REG, region.encode_single(), (fd,), need_reply=True)


def _qemu_ring(ring: RingSetup) -> Sequence:
    yield ring_state(FrontRequest.SET_VRING_NUM, ring.index, ring.num)
    yield ring_state(FrontRequest.SET_VRING_BASE, ring.index, ring.base)
    yield ring_address(ring)
    yield ring_descriptor(FrontRequest.SET_VRING_KICK, ring.index, ring.kick, need_reply=True)
    yield ring_descriptor(FrontRequest.SET_VRING_CALL, ring.index, ring.call, need_reply=True)


def qemu_start(setup: GuestSetup) -> Sequence:
    """The generic device: rings are enabled when all are set, DRIVER_OK comes last."""
    yield from _qemu_features(setup)
    yield from _qemu_memory(setup)
    for ring in setup.rings:
        yield from _qemu_ring(ring)
    for ring in setup.rings:
        yield ring_state(FrontRequest.SET_VRING_ENABLE, ring.index, 1, need_reply=True)
    yield from _qemu_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK)


def qemu_stop(setup: GuestSetup) -> Sequence:
    """The generic device disables first; memory is taken away region by region."""
    for ring in setup.rings:
        yield ring_state(FrontRequest.SET_VRING_ENABLE, ring.index, 0, need_reply=True)
    yield from qemu_net_stop(setup)


def qemu_net_start(setup: GuestSetup) -> Sequence:
    """The network device: each pair for itself, enabled before its features and rings are there."""
    for first in range(0, len(setup.rings) - 1, 2):
        pair = setup.rings[first : first + 2]
        for ring in pair:
            yield ring_state(FrontRequest.SET_VRING_ENABLE, ring.index, 1, need_reply=True)
        yield from _qemu_features(setup)
        if first == 0:
            yield from _qemu_memory(setup)
        for ring in pair:
            yield from _qemu_ring(ring)
    yield from _qemu_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK)


def qemu_net_stop(setup: GuestSetup) -> Sequence:
    """Ring bases are fetched, status 0 comes last."""
    for ring in setup.rings:
        yield ring_state(FrontRequest.GET_VRING_BASE, ring.index)
    yield u64(FrontRequest.SET_STATUS, 0)
    for region, _ in setup.memory:
        yield Step(FrontRequest.REM_MEM_REG, region.encode_single(), (), need_reply=True)


def crosvm_connect(setup: GuestSetup) -> Sequence:
    """Never asks for an acknowledgement."""
    yield Step(FrontRequest.SET_OWNER)
    yield Step(FrontRequest.GET_FEATURES)
    yield from _negotiate(_CROSVM)
    if setup.channel is not None:
        yield Step(FrontRequest.SET_BACKEND_REQ_FD, b"", (setup.channel,))
    yield Step(FrontRequest.GET_QUEUE_NUM)


def crosvm_start(setup: GuestSetup) -> Sequence:
    """ADDR before BASE, CALL before KICK."""
    yield u64(FrontRequest.SET_FEATURES, _with_bit_30(setup.features))
    yield memory_table(setup)
    for ring in setup.rings:
        yield ring_state(FrontRequest.SET_VRING_NUM, ring.index, ring.num)
        yield ring_address(ring)
        yield ring_state(FrontRequest.SET_VRING_BASE, ring.index, ring.base)
        yield ring_descriptor(FrontRequest.SET_VRING_CALL, ring.index, ring.call)
        yield ring_descriptor(FrontRequest.SET_VRING_KICK, ring.index, ring.kick)
        yield ring_state(FrontRequest.SET_VRING_ENABLE, ring.index, 1)


def crosvm_stop(setup: GuestSetup) -> Sequence:
    """Disable, then fetch the base, ring by ring."""
    for ring in setup.rings:
        yield ring_state(FrontRequest.SET_VRING_ENABLE, ring.index, 0)
        yield ring_state(FrontRequest.GET_VRING_BASE, ring.index)


def cloud_hypervisor_connect(setup: GuestSetup) -> Sequence:
    """The network device; an acknowledgement is asked for of everything once it can be."""
    yield Step(FrontRequest.SET_OWNER)
    yield Step(FrontRequest.GET_FEATURES)
    yield from _negotiate(_CLOUD_HYPERVISOR)
    yield Step(FrontRequest.GET_QUEUE_NUM, need_reply=True)
    yield config(setup.config_size)._replace(need_reply=True)


def cloud_hypervisor_start(setup: GuestSetup) -> Sequence:
    """CTRL_VQ is passed on, but no message concerns the control queue: the VMM serves it itself."""
    data = setup.rings[: len(setup.rings) // 2 * 2]
    yield u64(FrontRequest.SET_FEATURES, _with_bit_30(setup.features), need_reply=True)
    yield memory_table(setup, need_reply=True)
    yield from (ring_state(FrontRequest.SET_VRING_NUM, r.index, r.num, need_reply=True) for r in data)
    for ring in data:
        yield ring_address(ring, need_reply=True)
        yield ring_state(FrontRequest.SET_VRING_BASE, ring.index, ring.base, need_reply=True)
        yield ring_descriptor(FrontRequest.SET_VRING_CALL, ring.index, ring.call, need_reply=True)
        yield ring_descriptor(FrontRequest.SET_VRING_KICK, ring.index, ring.kick, need_reply=True)
    yield from (ring_state(FrontRequest.SET_VRING_ENABLE, r.index, 1, need_reply=True) for r in data)


def cloud_hypervisor_stop(setup: GuestSetup) -> Sequence:
    """As crosvm, with acknowledgements, for data rings only."""
    for step in crosvm_stop(setup._replace(rings=setup.rings[: len(setup.rings) // 2 * 2])):
        yield step._replace(need_reply=True)


def libkrun_connect(setup: GuestSetup) -> Sequence:
    """No SET_OWNER yet."""
    yield Step(FrontRequest.GET_FEATURES)
    yield from _negotiate(_LIBKRUN)
    yield Step(FrontRequest.GET_QUEUE_NUM)
    yield config(setup.config_size)


def libkrun_start(setup: GuestSetup) -> Sequence:
    """Memory before features, KICK before CALL, and one call descriptor for all rings."""
    yield Step(FrontRequest.SET_OWNER)
    yield memory_table(setup)
    yield u64(FrontRequest.SET_FEATURES, _with_bit_30(setup.features))
    for ring in setup.rings:
        yield ring_state(FrontRequest.SET_VRING_NUM, ring.index, ring.num)
        yield ring_state(FrontRequest.SET_VRING_BASE, ring.index, 0)
        yield ring_address(ring)
        yield ring_descriptor(FrontRequest.SET_VRING_KICK, ring.index, ring.kick)
        yield ring_descriptor(FrontRequest.SET_VRING_CALL, ring.index, setup.rings[0].call)
        yield ring_state(FrontRequest.SET_VRING_ENABLE, ring.index, 1)


def libkrun_stop(setup: GuestSetup) -> Sequence:
    """A reset by the guest disables; no base is fetched, and kick descriptors stay until others come."""
    yield from (ring_state(FrontRequest.SET_VRING_ENABLE, ring.index, 0) for ring in setup.rings)


#: for a back-end that offers in-band notifications
INBAND: Final = Order(inband_connect, inband_start, uml_stop)

ORDERS: Final[dict[str, Order]] = {
    "uml": Order(uml_connect, uml_start, uml_stop),
    "qemu": Order(qemu_connect, qemu_start, qemu_stop),
    "qemu-net": Order(qemu_connect, qemu_net_start, qemu_net_stop),
    "crosvm": Order(crosvm_connect, crosvm_start, crosvm_stop),
    "cloud-hypervisor": Order(cloud_hypervisor_connect, cloud_hypervisor_start, cloud_hypervisor_stop),
    "libkrun": Order(libkrun_connect, libkrun_start, libkrun_stop),
}
