"""The kernel's vhost-vdpa character device, one method per ioctl.

Satisfies ``core.device.VdpaDevice``.  Calls that answer from memory are made in
the event loop, and so are those on single rings: on some devices (mlx5_vdpa)
they take a firmware command, but the guest has to wait for them anyway.  Calls
that may take long (mapping, status, suspend, resume, open, close) go to a
thread, one at a time, so that the descriptor is never closed during a call.
They are made even if the caller is cancelled, as otherwise the caller's record
of the device would be wrong.
Source: Linux ``drivers/vhost/vdpa.c`` and ``vhost.c``.
This file must not know why a call is made or in which order.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING, Final

import trio

from cvqd.errors import DeviceError
from cvqd.host.vdpa_books import MappingBooks
from cvqd.host.vdpa_causes import ioctl_cause, spell_message
from cvqd.host.vdpa_node import open_node
from cvqd.wire.vhost_vdpa import Backend
from cvqd.wire.vhost_vdpa_ioctl import (
    CONFIG_HEADER,
    IOVA_RANGE,
    S32,
    U8,
    U16,
    U32,
    U64,
    VRING_FILE,
    VRING_STATE,
    Ioctl,
    decode_iova_range,
    encode_config,
    encode_iotlb,
    encode_ring_addresses,
)

if TYPE_CHECKING:
    import struct
    from collections.abc import Callable, Sequence
    from typing import Self

    from cvqd.wire.split_ring import RingAddresses
    from cvqd.wire.vhost_vdpa import IotlbMessage, IovaRange


class CharDevice:
    """An open vhost-vdpa device of this process; made by ``open``.

    Every method raises DeviceError with the ioctl's name, its arguments, the
    kernel's errno and what is known of the cause; EBADF after ``aclose``.
    A vring ioctl fails with ENOBUFS for an index beyond the last ring, and with
    EPERM in a process that did not open the device.
    """

    kind: Final = "vhost-vdpa"

    def __init__(self, path: str, fd: int) -> None:
        """Take over an open, owned descriptor; callers other than tests use ``open``."""
        self.path: Final = path
        self._fd = fd
        self._long_call = trio.Lock()
        self._acknowledged = 0
        self._books = MappingBooks(self._iova_range(), self._address_spaces())

    @classmethod
    async def open(cls, path: str) -> Self:
        """``open`` and ``VHOST_SET_OWNER``: reset and own the device; UnavailableError if that fails."""
        fd = await trio.to_thread.run_sync(open_node, path)
        try:
            return cls(path, fd)
        except DeviceError:
            os.close(fd)
            raise

    async def device_id(self) -> int:
        """``VHOST_VDPA_GET_DEVICE_ID`` (u32): virtio device id, 1 is a network device."""
        return self._get(Ioctl.VHOST_VDPA_GET_DEVICE_ID, U32)

    async def get_features(self) -> int:
        """``VHOST_GET_FEATURES`` (u64): what the device offers, not filtered by vhost."""
        return self._get(Ioctl.VHOST_GET_FEATURES, U64)

    async def set_features(self, features: int) -> None:
        """``VHOST_SET_FEATURES`` (u64): EBUSY after FEATURES_OK, EINVAL if the device refuses them."""
        self._call(Ioctl.VHOST_SET_FEATURES, U64.pack(features), f"{features:#x}")

    async def get_backend_features(self) -> int:
        """``VHOST_GET_BACKEND_FEATURES`` (u64): bits of ``wire.vhost_vdpa.Backend`` on offer."""
        return self._get(Ioctl.VHOST_GET_BACKEND_FEATURES, U64)

    async def set_backend_features(self, features: int) -> None:
        """``VHOST_SET_BACKEND_FEATURES`` (u64): replaces the set, which survives a reset.

        EOPNOTSUPP for a bit that is not offered, EINVAL for DESC_ASID without IOTLB_ASID.
        """
        self._call(Ioctl.VHOST_SET_BACKEND_FEATURES, U64.pack(features), f"{features:#x}")
        self._acknowledged = features

    async def get_status(self) -> int:
        """``VHOST_VDPA_GET_STATUS`` (u8): the status byte."""
        return self._get(Ioctl.VHOST_VDPA_GET_STATUS, U8)

    async def set_status(self, status: int) -> None:
        """``VHOST_VDPA_SET_STATUS`` (u8): 0 resets; EINVAL if a set bit would be cleared."""
        await self._in_thread(
            lambda: self._call(Ioctl.VHOST_VDPA_SET_STATUS, U8.pack(status), f"{status:#x}")
        )

    async def get_config_size(self) -> int:
        """``VHOST_VDPA_GET_CONFIG_SIZE`` (u32): bytes of configuration space."""
        return self._get(Ioctl.VHOST_VDPA_GET_CONFIG_SIZE, U32)

    async def get_config(self, offset: int, length: int) -> bytes:
        """``VHOST_VDPA_GET_CONFIG`` (``vhost_vdpa_config`` and the bytes): EINVAL if empty or outside."""
        argument = encode_config(offset, bytes(length))
        answer = self._call(Ioctl.VHOST_VDPA_GET_CONFIG, argument, f"off={offset}, len={length}")
        return answer[CONFIG_HEADER.size :]

    async def set_config(self, offset: int, data: bytes) -> None:
        """``VHOST_VDPA_SET_CONFIG`` (``vhost_vdpa_config`` and the bytes): EINVAL if empty or outside."""
        argument = encode_config(offset, data)
        self._call(Ioctl.VHOST_VDPA_SET_CONFIG, argument, f"off={offset}, len={len(data)}")

    async def set_config_call(self, fd: int) -> None:
        """``VHOST_VDPA_SET_CONFIG_CALL`` (int): -1 unbinds; EBADF, or EINVAL for another kind of file.

        Linux 6.12 drops the old binding before it fails.
        """
        self._call(Ioctl.VHOST_VDPA_SET_CONFIG_CALL, S32.pack(fd), f"fd={fd}")

    async def get_vring_num(self) -> int:
        """``VHOST_VDPA_GET_VRING_NUM`` (u16): largest ring of the device, in descriptors."""
        return self._get(Ioctl.VHOST_VDPA_GET_VRING_NUM, U16)

    async def get_vring_size(self, index: int) -> int:
        """``VHOST_VDPA_GET_VRING_SIZE`` (``vhost_vring_state``): size of one ring.

        EOPNOTSUPP if the device does not report it, ENOTTY before Linux 6.9.
        """
        return self._vring_query(Ioctl.VHOST_VDPA_GET_VRING_SIZE, index)

    async def get_vqs_count(self) -> int:
        """``VHOST_VDPA_GET_VQS_COUNT`` (u32): number of virtqueues."""
        return self._get(Ioctl.VHOST_VDPA_GET_VQS_COUNT, U32)

    async def get_group_num(self) -> int:
        """``VHOST_VDPA_GET_GROUP_NUM`` (u32): number of virtqueue groups."""
        return self._get(Ioctl.VHOST_VDPA_GET_GROUP_NUM, U32)

    async def get_as_num(self) -> int:
        """``VHOST_VDPA_GET_AS_NUM`` (u32): number of address spaces."""
        return self._address_spaces()

    async def get_vring_group(self, index: int) -> int:
        """``VHOST_VDPA_GET_VRING_GROUP`` (``vhost_vring_state``): the ring's group.

        EOPNOTSUPP if the device has no groups, EIO if it reports one that does not exist.
        """
        return self._vring_query(Ioctl.VHOST_VDPA_GET_VRING_GROUP, index)

    async def set_group_asid(self, group: int, asid: int) -> None:
        """``VHOST_VDPA_SET_GROUP_ASID`` (``vhost_vring_state``: index = group, num = address space).

        ENOBUFS for a group at or above the number of *rings*, EINVAL for no such group or address space,
        EOPNOTSUPP without groups, EBUSY with DRIVER_OK since Linux 7.0.  Every reset sets it back to 0.
        """
        argument = VRING_STATE.pack(group, asid)
        self._call(Ioctl.VHOST_VDPA_SET_GROUP_ASID, argument, f"group={group}, asid={asid}")

    async def get_iova_range(self) -> IovaRange:
        """``VHOST_VDPA_GET_IOVA_RANGE`` (``vhost_vdpa_iova_range``): addresses that can be mapped."""
        return self._iova_range()

    async def set_vring_num(self, index: int, num: int) -> None:
        """``VHOST_SET_VRING_NUM`` (``vhost_vring_state``): a power of two up to 32768, else EINVAL.

        Only Linux 7 checks it against the device's maximum.
        """
        self._call(Ioctl.VHOST_SET_VRING_NUM, VRING_STATE.pack(index, num), f"index={index}, num={num}")

    async def set_vring_addr(self, index: int, addresses: RingAddresses) -> None:
        """``VHOST_SET_VRING_ADDR`` (``vhost_vring_addr``): addresses in the space of the ring's group.

        They are not translated yet.  EINVAL if misaligned (available 2, used 4), or (Linux 6.12) with
        DRIVER_OK set and not suspended.
        """
        argument = encode_ring_addresses(index, addresses)
        shown = ", ".join(f"{name}={value:#x}" for name, value in addresses._asdict().items())
        self._call(Ioctl.VHOST_SET_VRING_ADDR, argument, f"index={index}, {shown}")

    async def set_vring_base(self, index: int, base: int) -> None:
        """``VHOST_SET_VRING_BASE`` (``vhost_vring_state``): for a split ring the next available index.

        EINVAL above 65535, or with DRIVER_OK as for ``set_vring_addr``.
        """
        self._call(Ioctl.VHOST_SET_VRING_BASE, VRING_STATE.pack(index, base), f"index={index}, base={base}")

    async def get_vring_base(self, index: int) -> int:
        """``VHOST_GET_VRING_BASE`` (``vhost_vring_state``): stable only while the ring cannot run."""
        return self._vring_query(Ioctl.VHOST_GET_VRING_BASE, index)

    async def set_vring_kick(self, index: int, fd: int) -> None:
        """``VHOST_SET_VRING_KICK`` (``vhost_vring_file``): the kernel polls the eventfd but never reads it.

        An eventfd that is already signalled kicks at once.  EBADF, or EINVAL for another kind of file.
        """
        self._bind(Ioctl.VHOST_SET_VRING_KICK, index, fd)

    async def set_vring_call(self, index: int, fd: int) -> None:
        """``VHOST_SET_VRING_CALL`` (``vhost_vring_file``): must be bound again after a reset.

        EBADF, or EINVAL for another kind of file.
        """
        self._bind(Ioctl.VHOST_SET_VRING_CALL, index, fd)

    async def set_vring_enable(self, index: int, *, enable: bool) -> None:
        """``VHOST_VDPA_SET_VRING_ENABLE`` (``vhost_vring_state``): passed to the device without a check.

        Enabling after DRIVER_OK is reliable only with ENABLE_AFTER_DRIVER_OK.
        """
        argument = VRING_STATE.pack(index, enable)
        self._call(Ioctl.VHOST_VDPA_SET_VRING_ENABLE, argument, f"index={index}, enable={int(enable)}")

    async def suspend(self) -> None:
        """``VHOST_VDPA_SUSPEND``: stop the rings and keep their state; no effect before DRIVER_OK.

        EOPNOTSUPP without the backend feature.
        """
        await self._in_thread(lambda: self._call(Ioctl.VHOST_VDPA_SUSPEND))

    async def resume(self) -> None:
        """``VHOST_VDPA_RESUME``: undo ``suspend``; EOPNOTSUPP without the backend feature."""
        await self._in_thread(lambda: self._call(Ioctl.VHOST_VDPA_RESUME))

    async def iotlb(self, asid: int, messages: Sequence[IotlbMessage]) -> None:
        """One ``write`` of ``struct vhost_msg_v2`` per message, all in one thread hop.

        The first failure raises EFAULT, whatever the cause (EINVAL for a map of size 0).  Messages before it
        stay in effect, and an open batch stays open: end it before another address space is used.  An
        address space other than 0 is refused here unless IOTLB_ASID is acknowledged, because the kernel
        would silently use 0.  In VA mode the kernel also silently skips memory that is not shared.
        """
        await self._in_thread(lambda: self._write(asid, messages))

    async def aclose(self) -> None:
        """Close: the device is reset, forgets all mappings and can be opened by others."""
        with trio.CancelScope(shield=True):
            async with self._long_call:
                if self._fd < 0:
                    return
                fd, self._fd = self._fd, -1
                await trio.to_thread.run_sync(os.close, fd)

    async def _in_thread(self, call: Callable[[], object]) -> None:
        with trio.CancelScope(shield=True):
            async with self._long_call:
                await trio.to_thread.run_sync(call)

    def _write(self, asid: int, messages: Sequence[IotlbMessage]) -> None:
        if asid and not self._acknowledged & Backend.IOTLB_ASID.mask:
            reason = f"IOTLB_ASID is not acknowledged, so address space {asid} would mean 0"
            raise DeviceError("IOTLB", errno.EFAULT, reason)
        if self._fd < 0:
            raise DeviceError("IOTLB", errno.EBADF, "the device is closed")
        for message in messages:
            try:
                os.write(self._fd, encode_iotlb(asid, message))
            except OSError as error:
                name, arguments = spell_message(asid, message)
                cause = self._books.cause(asid, message)
                raise DeviceError(name, error.errno or 0, cause, arguments) from error
            self._books.record(asid, message)

    def _iova_range(self) -> IovaRange:
        return decode_iova_range(self._call(Ioctl.VHOST_VDPA_GET_IOVA_RANGE, bytes(IOVA_RANGE.size)))

    def _address_spaces(self) -> int:
        return self._get(Ioctl.VHOST_VDPA_GET_AS_NUM, U32)

    def _get(self, request: Ioctl, layout: struct.Struct) -> int:
        (value,) = layout.unpack(self._call(request, bytes(layout.size)))
        return int(value)

    def _vring_query(self, request: Ioctl, index: int) -> int:
        answer = self._call(request, VRING_STATE.pack(index, 0), f"index={index}")
        _, value = VRING_STATE.unpack(answer)
        return int(value)

    def _bind(self, request: Ioctl, index: int, fd: int) -> None:
        self._call(request, VRING_FILE.pack(index, fd), f"index={index}, fd={fd}")

    def _call(self, request: Ioctl, argument: bytes = b"", shown: str = "") -> bytes:
        if self._fd < 0:
            raise DeviceError(request.name, errno.EBADF, "the device is closed", shown)
        answer = bytearray(argument)
        try:
            if answer:
                fcntl.ioctl(self._fd, request, answer)
            else:
                fcntl.ioctl(self._fd, request)
        except OSError as error:
            number = error.errno or 0
            raise DeviceError(request.name, number, ioctl_cause(request, number), shown) from error
        return bytes(answer)
