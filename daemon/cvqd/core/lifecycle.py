"""The life of a device, step by step: inspect, negotiate, bring up, enable, stop.

Each function makes its calls in the order that the kernel and the specification
require (virtio 1.3 §3.1.1, ``drivers/vhost/vdpa.c``) and awaits nothing but the
device.  *When* a device starts is decided in ``core.start_rule``.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL, ENOTTY, EOPNOTSUPP
from typing import TYPE_CHECKING, Final

from cvqd.core import isolation
from cvqd.core.isolation import GUEST_ASID
from cvqd.errors import DeviceError
from cvqd.wire import net_config
from cvqd.wire.packed_ring import PackedBase
from cvqd.wire.vhost_vdpa import Backend, IovaRange
from cvqd.wire.virtio import NET_DEVICE_ID, Feature, Status

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from cvqd.core.device import VdpaDevice
    from cvqd.core.isolation import Isolation
    from cvqd.core.mappings import Mappings
    from cvqd.wire.split_ring import RingAddresses

#: backend features cvqd uses when offered; DESC_ASID is reported only
BACKEND_USED: Final = (
    Backend.IOTLB_MSG_V2.mask
    | Backend.IOTLB_BATCH.mask
    | Backend.IOTLB_ASID.mask
    | Backend.SUSPEND.mask
    | Backend.RESUME.mask
    | Backend.ENABLE_AFTER_DRIVER_OK.mask
    | Backend.IOTLB_PERSIST.mask
)


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What an open device reports about itself before anything is negotiated.

    ``backend_features`` are those offered.  ``vring_num`` is the largest ring size that the device reports
    for all its rings, ``smallest_ring`` the least of the limits of its single rings; both in descriptors.
    """

    features: int
    backend_features: int
    vring_num: int
    smallest_ring: int
    vqs: int
    group_count: int
    address_spaces: int
    iova: IovaRange
    config: bytes
    max_pairs: int
    #: whether ring indices can be read from the device and set
    keeps_indices: bool = True

    @property
    def backend_used(self) -> int:
        """Backend features that cvqd acknowledges."""
        return self.backend_features & BACKEND_USED

    @property
    def suspends(self) -> bool:
        """Whether the device can be suspended."""
        return bool(self.backend_features & Backend.SUSPEND.mask)

    @property
    def resumes(self) -> bool:
        """Whether a suspended device can be resumed without a reset."""
        return bool(self.backend_features & Backend.RESUME.mask)

    @property
    def tells_where(self) -> bool:
        """Whether the device can be stopped and then asked where its rings continue."""
        return self.suspends and self.keeps_indices

    @property
    def enables_late(self) -> bool:
        """Whether rings may be enabled while DRIVER_OK is set."""
        return bool(self.backend_features & Backend.ENABLE_AFTER_DRIVER_OK.mask)

    @property
    def lacks(self) -> dict[str, str]:
        """What the device cannot do that others can, and the consequence."""
        found: dict[str, str] = {}
        if not self.backend_used & Backend.SUSPEND.mask:
            found["suspend"] = "stopped by a reset"
        if not self.keeps_indices:
            found["ring indices"] = "neither reported nor taken: rings can begin and cannot be continued"
        if not self.enables_late:
            found["late enable"] = "data queues run while control state is put back"
        return found


@dataclass(frozen=True, slots=True)
class RingPlan:
    """One ring as the device gets it: its own index, addresses in the group's address space, lent fds."""

    index: int
    num: int
    addresses: RingAddresses
    base: int
    kick: int
    call: int


@dataclass(frozen=True, slots=True)
class StartPlan:
    """A start: the features to acknowledge, the guest's rings, the shadow queue's ring."""

    features: int
    data: tuple[RingPlan, ...]
    control: RingPlan | None

    @property
    def rings(self) -> tuple[RingPlan, ...]:
        """All rings."""
        return self.data + ((self.control,) if self.control else ())


async def inspect(device: VdpaDevice) -> DeviceFacts:
    """Reset the device, acknowledge backend features, read its properties; DeviceError if it is no NIC."""
    kind = await device.device_id()
    if kind != NET_DEVICE_ID:
        raise DeviceError("VHOST_VDPA_GET_DEVICE_ID", EINVAL, f"virtio device {kind} is not a network device")
    await device.set_status(0)
    backend = await device.get_backend_features()
    await device.set_backend_features(backend & BACKEND_USED)
    features = await device.get_features()
    config = await device.get_config(0, await device.get_config_size())
    multiqueue = features & (Feature.MQ.mask | Feature.RSS.mask)
    vring_num, vqs = await device.get_vring_num(), await device.get_vqs_count()
    sizes = [await _if_supported(device.get_vring_size(index)) for index in range(vqs)]
    return DeviceFacts(
        features=features,
        backend_features=backend,
        vring_num=vring_num,
        smallest_ring=min([vring_num, *(size for size in sizes if size)]),
        vqs=vqs,
        group_count=await device.get_group_num(),
        address_spaces=await device.get_as_num(),
        iova=await device.get_iova_range(),
        config=config,
        max_pairs=max(1, net_config.decode(config).max_virtqueue_pairs) if multiqueue else 1,
        keeps_indices=await _if_supported(device.get_vring_base(0)) is not None,
    )


async def judge_isolation(device: VdpaDevice, facts: DeviceFacts, cvq_index: int | None) -> Isolation:
    """Read the group of every ring and judge; the groups may depend on the features negotiated by now."""
    return isolation.judge(
        backend_features=facts.backend_features,
        address_spaces=facts.address_spaces,
        groups=tuple([await _if_supported(device.get_vring_group(i)) for i in range(facts.vqs)]),
        cvq_index=cvq_index,
    )


async def negotiate(device: VdpaDevice, features: int) -> None:
    """Reset and negotiate features up to FEATURES_OK; DeviceError if the device does not accept them."""
    await device.set_status(0)
    await device.set_status(Status.ACKNOWLEDGE)
    await device.set_status(Status.ACKNOWLEDGE | Status.DRIVER)
    await device.set_features(features)
    await device.set_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
    if not await device.get_status() & Status.FEATURES_OK:
        raise DeviceError("VHOST_VDPA_SET_STATUS", EINVAL, f"FEATURES_OK does not hold for {features:#x}")


async def bring_up(
    device: VdpaDevice, facts: DeviceFacts, mappings: Mappings, verdict: Isolation, plan: StartPlan
) -> None:
    """From any state to DRIVER_OK with only the control queue enabled.

    The data queues of a device without ENABLE_AFTER_DRIVER_OK cannot be enabled
    later: they are enabled here too, and run while state is replayed.

    Memory must be in ``mappings`` by now: once DRIVER_OK is set, a group on an
    address space in which nothing is mapped would see this process's memory
    (an empty space translates by identity, ``drivers/vdpa/vdpa_sim``).
    """
    await negotiate(device, plan.features)
    # the reset has returned every group to address space 0
    for group, asid in sorted(
        {(queue.group, queue.asid) for queue in verdict.queues if queue.group is not None}
    ):
        if asid != GUEST_ASID:
            await device.set_group_asid(group, asid)
    # after the groups: mlx5_vdpa before Linux 6.7 ignores mappings in a space to which no group points
    await mappings.restore()
    for asid in {queue.asid for queue in verdict.queues}:
        if not mappings.mapped(asid):
            raise DeviceError("VHOST_VDPA_SET_STATUS", EINVAL, f"nothing is mapped in address space {asid}")
    for ring in plan.rings:
        await device.set_vring_num(ring.index, ring.num)
        await device.set_vring_addr(ring.index, ring.addresses)
        if facts.keeps_indices or ring.base:
            await device.set_vring_base(ring.index, ring.base)
        await device.set_vring_call(ring.index, ring.call)
        await device.set_vring_kick(ring.index, ring.kick)
    for ring in plan.rings if not facts.enables_late else plan.rings[len(plan.data) :]:
        await device.set_vring_enable(ring.index, enable=True)
    await device.set_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK)
    if await device.get_status() & (Status.NEEDS_RESET | Status.FAILED):
        raise DeviceError("VHOST_VDPA_SET_STATUS", EINVAL, "the device failed at DRIVER_OK")


async def enable_data(device: VdpaDevice, facts: DeviceFacts, plan: StartPlan) -> None:
    """Enable the data queues, once the control state is in place."""
    for ring in plan.data if facts.enables_late else ():
        await device.set_vring_enable(ring.index, enable=True)


async def enable_control(device: VdpaDevice, plan: StartPlan) -> None:
    """Enable the control queue again after a resume, as some devices need.

    mlx5_vdpa stops it on suspend and does not start it again on resume (``mlx5_vdpa_cvq_suspend``,
    drivers/vdpa/mlx5/net/mlx5_vnet.c).  On a queue that runs this has no effect.
    """
    if plan.control is not None:
        await device.set_vring_enable(plan.control.index, enable=True)


async def stop(
    device: VdpaDevice, facts: DeviceFacts, plan: StartPlan, *, failed: bool = False
) -> dict[int, int] | None:
    """Stop and reset the device; the data rings' bases, None if the device cannot tell them.

    A device that has ``failed`` may never complete the buffers it took (virtio 1.3 §2.1.2), so its rings
    continue after the last one that it gave back.  For a split ring that place is in memory, for a packed
    ring only the device knows it.

    The device is reset even if it does not suspend, and its descriptors are unbound even if it does not
    reset, because the caller closes them next.
    """
    packed = bool(plan.features & Feature.RING_PACKED.mask)
    bases: dict[int, int] | None = None
    try:
        if facts.tells_where and (packed or not failed):
            await device.suspend()
            bases = await take_bases(device, plan)
    finally:
        try:
            await device.set_status(0)
        finally:
            await unbind(device, plan)
    if failed and bases is not None:
        bases = {index: PackedBase.decode(base).behind_used().encode() for index, base in bases.items()}
    return bases


async def take_bases(device: VdpaDevice, plan: StartPlan) -> dict[int, int]:
    """Where each data ring of a suspended device continues."""
    return {ring.index: await device.get_vring_base(ring.index) for ring in plan.data}


async def bind(device: VdpaDevice, plan: StartPlan) -> None:
    """Lend the device every ring's descriptors."""
    for ring in plan.rings:
        await device.set_vring_call(ring.index, ring.call)
        await device.set_vring_kick(ring.index, ring.kick)


async def unbind(device: VdpaDevice, plan: StartPlan) -> None:
    """Take every ring's descriptors back."""
    for ring in plan.rings:
        await device.set_vring_kick(ring.index, -1)
        await device.set_vring_call(ring.index, -1)


async def _if_supported(question: Awaitable[int]) -> int | None:
    """The answer; None if the device (``vp_vdpa`` lacks several calls) or the kernel has no such call."""
    try:
        return await question
    except DeviceError as error:
        if error.errno in {EOPNOTSUPP, ENOTTY}:
            return None
        raise
