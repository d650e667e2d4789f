"""What cvqd needs of a vDPA device: one method per ioctl of vhost-vdpa.

``host.vdpa`` (the character device) and ``simulator.device`` satisfy this
protocol, and a shared contract suite tests both against it.  Methods are
``async`` because the kernel may take long over a mapping or a suspend; a quick
implementation just returns.  Every failure is a ``DeviceError`` with the name
of the ioctl and the errno that the kernel would return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvqd.wire.split_ring import RingAddresses
    from cvqd.wire.vhost_vdpa import IotlbMessage, IovaRange


class VdpaDevice(Protocol):
    """An open vDPA device, owned by this process.

    File descriptors are borrowed: the caller keeps them open until they are
    replaced or unbound with ``-1``.  A reset returns every group to address
    space 0, forgets rings and call descriptors, and keeps backend features.
    """

    @property
    def kind(self) -> str:
        """``vhost-vdpa`` or ``simulator``."""

    @property
    def path(self) -> str:
        """The node's path, or the simulator's name."""

    async def device_id(self) -> int:
        """Virtio device id; 1 is a network device."""

    async def get_features(self) -> int:
        """Feature word that the device offers."""

    async def set_features(self, features: int) -> None:
        """Acknowledge features; EBUSY after FEATURES_OK, EINVAL if the device refuses."""

    async def get_backend_features(self) -> int:
        """Backend features offered, see ``wire.vhost_vdpa.Backend``."""

    async def set_backend_features(self, features: int) -> None:
        """Acknowledge backend features; EOPNOTSUPP for a bit that is not offered."""

    async def get_status(self) -> int:
        """Status byte."""

    async def set_status(self, status: int) -> None:
        """Set the status byte; 0 resets; EINVAL if a set bit would be cleared."""

    async def get_config_size(self) -> int:
        """Bytes of configuration space."""

    async def get_config(self, offset: int, length: int) -> bytes:
        """Read configuration space; EINVAL outside it."""

    async def set_config(self, offset: int, data: bytes) -> None:
        """Write configuration space; EINVAL outside it."""

    async def set_config_call(self, fd: int) -> None:
        """Eventfd that announces a configuration change, -1 unbinds; a reset may unbind it."""

    async def get_vring_num(self) -> int:
        """Largest ring size, in descriptors."""

    async def get_vring_size(self, index: int) -> int:
        """Largest size of one ring, in descriptors; EOPNOTSUPP or ENOTTY where it is not reported."""

    async def get_vqs_count(self) -> int:
        """Number of virtqueues."""

    async def get_group_num(self) -> int:
        """Number of virtqueue groups."""

    async def get_as_num(self) -> int:
        """Number of address spaces."""

    async def get_vring_group(self, index: int) -> int:
        """Group of a ring; EOPNOTSUPP where the device has no groups, ENOBUFS for no such ring."""

    async def set_group_asid(self, group: int, asid: int) -> None:
        """Point a group at an address space; EINVAL for no such group or space."""

    async def get_iova_range(self) -> IovaRange:
        """Device addresses that can be mapped."""

    async def set_vring_num(self, index: int, num: int) -> None:
        """Ring size: a power of two."""

    async def set_vring_addr(self, index: int, addresses: RingAddresses) -> None:
        """Ring addresses, in the address space of the ring's group."""

    async def set_vring_base(self, index: int, base: int) -> None:
        """Set where the ring continues (split: next available index)."""

    async def get_vring_base(self, index: int) -> int:
        """Where the ring continues; stable only while the ring cannot run."""

    async def set_vring_kick(self, index: int, fd: int) -> None:
        """Eventfd that the driver signals, -1 unbinds; EINVAL for another kind of file."""

    async def set_vring_call(self, index: int, fd: int) -> None:
        """Eventfd that the device signals, -1 unbinds; EINVAL for another kind of file."""

    async def set_vring_enable(self, index: int, *, enable: bool) -> None:
        """Let a ring run, or stop it."""

    async def suspend(self) -> None:
        """Stop all rings and keep their state; EOPNOTSUPP where the device cannot."""

    async def resume(self) -> None:
        """Undo ``suspend``; EOPNOTSUPP where the device cannot."""

    async def iotlb(self, asid: int, messages: Sequence[IotlbMessage]) -> None:
        """Send IOTLB messages for one address space, in order; EFAULT on the first that fails."""

    async def aclose(self) -> None:
        """Close the device; it is reset and forgets all mappings."""
