"""The API of the embedded vDPA device: every call of ``core.device.VdpaDevice``.

It plays the part that vhost-vdpa has in the kernel: it checks a call and passes
it on to the parent device, ``net_device``.  Errnos, their order and what
survives a reset follow ``drivers/vhost/vdpa.c`` and ``vhost.c`` of Linux 6.12,
but are stricter where the kernel and its simulator let a mistake pass;
``tests/contract/test_differences.py`` lists every such case.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from cvqd.errors import DeviceError
from cvqd.host import shared_memory
from cvqd.simulator import engine
from cvqd.simulator.doorbells import require_eventfd
from cvqd.simulator.faults import CallFaultPlan
from cvqd.simulator.net_device import NetDevice
from cvqd.simulator.outlet import Outlets
from cvqd.simulator.spec import LoopbackPath
from cvqd.wire.net_config import SIZE
from cvqd.wire.vhost_vdpa import Backend
from cvqd.wire.vhost_vdpa_ioctl import Ioctl
from cvqd.wire.virtio import NET_DEVICE_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    import trio

    from cvqd.events import EventLog
    from cvqd.simulator.faults import FaultPlan
    from cvqd.simulator.ring import Ring
    from cvqd.simulator.spec import SimulatorSpec
    from cvqd.simulator.statistics import Statistics
    from cvqd.wire.split_ring import RingAddresses
    from cvqd.wire.vhost_vdpa import IotlbMessage, IovaRange


class SimulatedDevice:
    """A virtio network device in this process; made by ``open``.  DeviceError from any call that fails."""

    kind: Final = "simulator"

    def __init__(
        self,
        spec: SimulatorSpec,
        log: EventLog,
        *,
        name: str = "simulator",
        fence: Callable[[], None] = shared_memory.full_fence,
    ) -> None:
        """Build a device that no task serves, for tests that call ``net.turn`` themselves."""
        self.path: Final = name
        self.spec: Final = spec
        self.net: Final = NetDevice(spec, log, fence)
        #: calls that are still to fail
        self.call_faults: Final = CallFaultPlan(spec.call_faults)
        self._log = log
        self._closed = False

    @classmethod
    async def open(
        cls,
        spec: SimulatorSpec,
        log: EventLog,
        nursery: trio.Nursery,
        *,
        name: str = "simulator",
        outlets: Outlets | None = None,
    ) -> Self:
        """A device served by a task in ``nursery`` until ``aclose``.

        DeviceError if the path or interface of its datapath cannot be opened; simulators that share
        ``outlets`` may share one.
        """
        device = cls(spec, log, name=name)
        try:
            if not isinstance(spec.datapath, LoopbackPath):
                device.net.join((outlets or Outlets()).get(spec.datapath))
        except DeviceError:
            await device.aclose()
            raise
        nursery.start_soon(engine.run, device.net, name=f"simulator {name}")
        return device

    # what only a simulator can be asked

    @property
    def statistics(self) -> Statistics:
        """The device's counters."""
        return self.net.statistics

    @property
    def faults(self) -> FaultPlan:
        """Misbehaviour that is still planned; more may be added."""
        return self.net.faults

    def announce(self) -> None:
        """See ``NetDevice.announce``."""
        self.net.announce()

    def fail(self) -> None:
        """See ``NetDevice.fail``."""
        self.net.fail()

    def set_link(self, *, up: bool) -> None:
        """See ``NetDevice.set_link``."""
        self.net.set_link(up=up)

    # identity

    async def device_id(self) -> int:
        """Always 1, a network device."""
        return NET_DEVICE_ID

    async def get_vring_num(self) -> int:
        """Largest ring size, in descriptors."""
        return self.spec.queue_size

    async def get_vring_size(self, index: int) -> int:
        """EOPNOTSUPP, as from the kernel's simulator: all rings have the same maximum."""
        call = Ioctl.VHOST_VDPA_GET_VRING_SIZE
        self._ring(call, index)
        raise DeviceError(call.name, errno.EOPNOTSUPP, "every ring has the device's size", f"index={index}")

    async def get_vqs_count(self) -> int:
        """Two rings for each pair, and the control ring if CTRL_VQ is offered."""
        return self.spec.queue_count

    async def get_group_num(self) -> int:
        """Number of virtqueue groups."""
        return self.spec.group_count

    async def get_as_num(self) -> int:
        """Number of address spaces."""
        return self.spec.address_spaces

    async def get_iova_range(self) -> IovaRange:
        """Device addresses that can be mapped."""
        return self.spec.iova_range

    # negotiation

    async def get_features(self) -> int:
        """Feature word on offer."""
        return self.spec.offered_features

    async def set_features(self, features: int) -> None:
        """EBUSY after FEATURES_OK; EINVAL for a set that is not offered, incomplete or contradictory."""
        self._planned("set_features")
        self.net.negotiation.set_features(features)

    async def get_backend_features(self) -> int:
        """Backend features on offer."""
        return self.spec.backend_features

    async def set_backend_features(self, features: int) -> None:
        """Replaces the acknowledged set, which outlives a reset; EOPNOTSUPP for a bit not offered."""
        self.net.negotiation.set_backend_features(features)

    async def get_status(self) -> int:
        """Status byte."""
        return self.net.negotiation.status

    async def set_status(self, status: int) -> None:
        """0 resets; EINVAL if a set bit would be cleared or DRIVER_OK precedes FEATURES_OK.

        FEATURES_OK does not stick without features.
        """
        self._planned("set_status")
        self.net.set_status(status)

    # configuration space

    async def get_config_size(self) -> int:
        """24 bytes."""
        return SIZE

    async def get_config(self, offset: int, length: int) -> bytes:
        """EINVAL for an empty range or one that goes beyond the space."""
        self._check_config(Ioctl.VHOST_VDPA_GET_CONFIG, offset, length)
        return self.net.control.config[offset : offset + length]

    async def set_config(self, offset: int, data: bytes) -> None:
        """Checked like a read, but nothing changes: all fields are read-only (virtio 1.3 §5.1.4)."""
        self._check_config(Ioctl.VHOST_VDPA_SET_CONFIG, offset, len(data))

    async def set_config_call(self, fd: int) -> None:
        """Signalled for a link change, an announcement and NEEDS_RESET; stays bound across a reset."""
        if fd >= 0:
            require_eventfd(Ioctl.VHOST_VDPA_SET_CONFIG_CALL.name, fd, f"fd={fd}")
        self.net.config_bell.bind(fd)

    # groups and memory

    async def get_vring_group(self, index: int) -> int:
        """ENOBUFS for no such ring."""
        return self.spec.group_of(self._ring(Ioctl.VHOST_VDPA_GET_VRING_GROUP, index).index)

    async def set_group_asid(self, group: int, asid: int) -> None:
        """ENOBUFS at or above the number of *rings*, EINVAL for no such group or space.

        EBUSY with DRIVER_OK, as since Linux 7.0.
        """
        call, shown = Ioctl.VHOST_VDPA_SET_GROUP_ASID, f"group={group}, asid={asid}"
        self._ring(call, group)
        if group >= self.spec.group_count or not 0 <= asid < self.spec.address_spaces:
            raise DeviceError(call.name, errno.EINVAL, "no such group or address space", shown)
        if self.net.negotiation.driver_ok:
            raise DeviceError(call.name, errno.EBUSY, "DRIVER_OK is set", shown)
        self.net.set_group_asid(group, asid)

    async def iotlb(self, asid: int, messages: Sequence[IotlbMessage]) -> None:
        """Messages in order, effective at once or at the end of a batch; EFAULT on the first that fails.

        EFAULT for a space other than 0 unless IOTLB_ASID is acknowledged, EINVAL for an empty range.
        """
        self._planned("iotlb")
        allowed = self.net.negotiation.acknowledged(Backend.IOTLB_ASID)
        self.net.iotlb.apply(asid, messages, asid_acknowledged=allowed)

    # rings

    async def set_vring_num(self, index: int, num: int) -> None:
        """EINVAL unless a power of two up to ``get_vring_num``, and while the ring may be running."""
        call, shown = Ioctl.VHOST_SET_VRING_NUM, f"index={index}, num={num}"
        self._planned("set_vring_num")
        ring = self._ring(call, index)
        if not 1 <= num <= self.spec.queue_size or num & (num - 1):
            reason = f"not a power of two up to {self.spec.queue_size}"
            raise DeviceError(call.name, errno.EINVAL, reason, shown)
        self._refuse_running(call, shown)
        ring.detach()
        ring.num = num

    async def set_vring_addr(self, index: int, addresses: RingAddresses) -> None:
        """EINVAL if misaligned (virtio 1.3 §2.7, §2.8) or while the ring may be running; translated later."""
        shown = f"index={index}, " + ", ".join(f"{k}={v:#x}" for k, v in addresses._asdict().items())
        call = Ioctl.VHOST_SET_VRING_ADDR
        self._planned("set_vring_addr")
        ring = self._ring(call, index)
        alignment = self.net.negotiation.ring_format.alignment
        if any(address % unit for address, unit in zip(addresses, alignment, strict=True)):
            raise DeviceError(call.name, errno.EINVAL, "misaligned", shown)
        self._refuse_running(call, shown)
        ring.detach()
        ring.addresses = addresses

    async def set_vring_base(self, index: int, base: int) -> None:
        """Split: next available index, EINVAL above 65535; packed: a ``PackedBase``.

        EINVAL while the ring may be running.
        """
        call, shown = Ioctl.VHOST_SET_VRING_BASE, f"index={index}, base={base}"
        self._planned("set_vring_base")
        ring = self._ring(call, index)
        most = 0xFFFF_FFFF if self.net.negotiation.ring_format.packed else 0xFFFF
        if not 0 <= base <= most:
            raise DeviceError(call.name, errno.EINVAL, f"above {most}", shown)
        self._refuse_running(call, shown)
        ring.base = base

    async def get_vring_base(self, index: int) -> int:
        """The base, in the encoding of ``set_vring_base``."""
        self._planned("get_vring_base")
        return self._ring(Ioctl.VHOST_GET_VRING_BASE, index).base

    async def set_vring_kick(self, index: int, fd: int) -> None:
        """EBADF, or EINVAL for another kind of file.  An eventfd already signalled kicks at once.

        A reset unbinds it.
        """
        self._planned("set_vring_kick")
        self._check_vring_fd(Ioctl.VHOST_SET_VRING_KICK, index, fd)
        self.net.set_kick(index, fd)

    async def set_vring_call(self, index: int, fd: int) -> None:
        """EBADF, or EINVAL for another kind of file.  A reset unbinds it."""
        self._check_vring_fd(Ioctl.VHOST_SET_VRING_CALL, index, fd)
        self.net.bells[index].bind(fd)

    async def set_vring_enable(self, index: int, *, enable: bool) -> None:
        """Earlier kicks are lost, as in the kernel: kick again after enabling."""
        self._planned("set_vring_enable")
        self._ring(Ioctl.VHOST_VDPA_SET_VRING_ENABLE, index)
        self.net.set_enabled(index, enabled=enable)

    async def suspend(self) -> None:
        """Stop the rings at once, so that their state can be read.  No effect before DRIVER_OK.

        EOPNOTSUPP if SUSPEND is not offered.
        """
        self._planned("suspend")
        if self._may(Ioctl.VHOST_VDPA_SUSPEND, Backend.SUSPEND):
            self.net.set_suspended(suspended=True)

    async def resume(self) -> None:
        """Undo ``suspend`` and serve kicks that came meanwhile; EOPNOTSUPP if RESUME is not offered."""
        self._planned("resume")
        if self._may(Ioctl.VHOST_VDPA_RESUME, Backend.RESUME):
            self.net.set_suspended(suspended=False)

    async def aclose(self) -> None:
        """Reset, forget all mappings, end the serving task; harmless when repeated."""
        if not self._closed:
            self._closed = True
            self.net.close()
            engine.release(self.net.doorbells)

    def _planned(self, call: str) -> None:
        fault = self.call_faults.take(call)
        if fault is not None:
            self._log.emit("simulator.call.failed", call=call)
            raise DeviceError(fault.ioctl, errno.EIO, "as configured")

    def _ring(self, call: Ioctl, index: int) -> Ring:
        if self._closed:
            raise DeviceError(call.name, errno.EBADF, "the device is closed", f"index={index}")
        if not 0 <= index < len(self.net.rings):
            raise DeviceError(call.name, errno.ENOBUFS, "no such ring", f"index={index}")
        return self.net.rings[index]

    def _check_vring_fd(self, call: Ioctl, index: int, fd: int) -> None:
        self._ring(call, index)
        if fd >= 0:
            require_eventfd(call.name, fd, f"index={index}, fd={fd}")

    def _refuse_running(self, call: Ioctl, shown: str) -> None:
        if self.net.negotiation.running:
            raise DeviceError(call.name, errno.EINVAL, "the ring may be running", shown)

    def _may(self, call: Ioctl, bit: Backend) -> bool:
        # order of the checks: vhost_vdpa_suspend in drivers/vhost/vdpa.c
        if not self.net.negotiation.driver_ok:
            return False
        if not self.spec.backend_features & bit.mask:
            raise DeviceError(call.name, errno.EOPNOTSUPP, f"{bit.name} is not offered")
        return True

    def _check_config(self, call: Ioctl, offset: int, length: int) -> None:
        if length <= 0 or offset < 0 or offset + length > SIZE:
            reason = "empty or outside the configuration space"
            raise DeviceError(call.name, errno.EINVAL, reason, f"off={offset}, len={length}")
