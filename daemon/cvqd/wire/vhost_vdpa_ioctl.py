"""The bytes of the vhost-vdpa user API: ioctl numbers, structures, IOTLB records.

``host.vdpa`` sends them; a test compiles a C program against the system's
kernel headers and compares.  Source: Linux
``include/uapi/asm-generic/ioctl.h``, ``include/uapi/linux/vhost.h`` and
``include/uapi/linux/vhost_types.h``.  Values are in host byte order, as the
kernel expects them.  This file must not know what the calls are for.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from cvqd.wire.vhost_vdpa import Access, BatchMark, IovaRange, Unmap

if TYPE_CHECKING:
    from cvqd.wire.split_ring import RingAddresses
    from cvqd.wire.vhost_vdpa import IotlbMessage

_VHOST_TYPE: Final = 0xAF

VRING_STATE: Final = struct.Struct("=II")  # vhost_vring_state: index, num
VRING_FILE: Final = struct.Struct("=Ii")  # vhost_vring_file: index, fd
VRING_ADDR: Final = struct.Struct("=IIQQQQ")  # vhost_vring_addr: index, flags, desc, used, avail, log
CONFIG_HEADER: Final = struct.Struct("=II")  # vhost_vdpa_config: off, len; bytes follow
IOVA_RANGE: Final = struct.Struct("=QQ")  # vhost_vdpa_iova_range: first, last
MSG_V2: Final = struct.Struct("=IIQQQBB6x32x")  # vhost_msg_v2: type, asid, vhost_iotlb_msg, reserved
U8: Final = struct.Struct("=B")
U16: Final = struct.Struct("=H")
U32: Final = struct.Struct("=I")
S32: Final = struct.Struct("=i")
U64: Final = struct.Struct("=Q")

IOTLB_MSG_V2: Final = 2  # VHOST_IOTLB_MSG_V2, vhost_msg_v2.type


def _request(direction: int, number: int, size: int) -> int:
    """``_IOC``: number 0-7, type 8-15, argument size 16-29, direction 30-31."""
    return direction << 30 | size << 16 | _VHOST_TYPE << 8 | number


def _io(number: int) -> tuple[int, str]:
    return _request(0, number, 0), ""


def _iow(number: int, layout: struct.Struct, argument: str) -> tuple[int, str]:
    return _request(1, number, layout.size), argument


def _ior(number: int, layout: struct.Struct, argument: str) -> tuple[int, str]:
    return _request(2, number, layout.size), argument


def _iowr(number: int, layout: struct.Struct, argument: str) -> tuple[int, str]:
    return _request(3, number, layout.size), argument


class Ioctl(enum.IntEnum):
    """Request numbers under the kernel's names; ``argument`` is the C type that is passed."""

    argument: str

    def __new__(cls, request: int, argument: str) -> Self:
        """One request number and the C type of its argument, empty for none."""
        member = int.__new__(cls, request)
        member._value_ = request
        member.argument = argument
        return member

    VHOST_GET_FEATURES = _ior(0x00, U64, "__u64")
    VHOST_SET_FEATURES = _iow(0x00, U64, "__u64")
    VHOST_SET_OWNER = _io(0x01)
    VHOST_RESET_OWNER = _io(0x02)
    VHOST_SET_VRING_NUM = _iow(0x10, VRING_STATE, "struct vhost_vring_state")
    VHOST_SET_VRING_ADDR = _iow(0x11, VRING_ADDR, "struct vhost_vring_addr")
    VHOST_SET_VRING_BASE = _iow(0x12, VRING_STATE, "struct vhost_vring_state")
    VHOST_GET_VRING_BASE = _iowr(0x12, VRING_STATE, "struct vhost_vring_state")
    VHOST_SET_VRING_ENDIAN = _iow(0x13, VRING_STATE, "struct vhost_vring_state")
    VHOST_GET_VRING_ENDIAN = _iow(0x14, VRING_STATE, "struct vhost_vring_state")
    VHOST_SET_VRING_KICK = _iow(0x20, VRING_FILE, "struct vhost_vring_file")
    VHOST_SET_VRING_CALL = _iow(0x21, VRING_FILE, "struct vhost_vring_file")
    VHOST_SET_VRING_ERR = _iow(0x22, VRING_FILE, "struct vhost_vring_file")
    VHOST_SET_VRING_BUSYLOOP_TIMEOUT = _iow(0x23, VRING_STATE, "struct vhost_vring_state")
    VHOST_GET_VRING_BUSYLOOP_TIMEOUT = _iow(0x24, VRING_STATE, "struct vhost_vring_state")
    VHOST_SET_BACKEND_FEATURES = _iow(0x25, U64, "__u64")
    VHOST_GET_BACKEND_FEATURES = _ior(0x26, U64, "__u64")
    VHOST_VDPA_GET_DEVICE_ID = _ior(0x70, U32, "__u32")
    VHOST_VDPA_GET_STATUS = _ior(0x71, U8, "__u8")
    VHOST_VDPA_SET_STATUS = _iow(0x72, U8, "__u8")
    VHOST_VDPA_GET_CONFIG = _ior(0x73, CONFIG_HEADER, "struct vhost_vdpa_config")
    VHOST_VDPA_SET_CONFIG = _iow(0x74, CONFIG_HEADER, "struct vhost_vdpa_config")
    VHOST_VDPA_SET_VRING_ENABLE = _iow(0x75, VRING_STATE, "struct vhost_vring_state")
    VHOST_VDPA_GET_VRING_NUM = _ior(0x76, U16, "__u16")
    VHOST_VDPA_SET_CONFIG_CALL = _iow(0x77, S32, "int")
    VHOST_VDPA_GET_IOVA_RANGE = _ior(0x78, IOVA_RANGE, "struct vhost_vdpa_iova_range")
    VHOST_VDPA_GET_CONFIG_SIZE = _ior(0x79, U32, "__u32")
    VHOST_VDPA_GET_AS_NUM = _ior(0x7A, U32, "unsigned int")
    VHOST_VDPA_GET_VRING_GROUP = _iowr(0x7B, VRING_STATE, "struct vhost_vring_state")
    VHOST_VDPA_SET_GROUP_ASID = _iow(0x7C, VRING_STATE, "struct vhost_vring_state")
    VHOST_VDPA_SUSPEND = _io(0x7D)
    VHOST_VDPA_RESUME = _io(0x7E)
    VHOST_VDPA_GET_VRING_DESC_GROUP = _iowr(0x7F, VRING_STATE, "struct vhost_vring_state")
    VHOST_VDPA_GET_VQS_COUNT = _ior(0x80, U32, "__u32")
    VHOST_VDPA_GET_GROUP_NUM = _ior(0x81, U32, "__u32")
    VHOST_VDPA_GET_VRING_SIZE = _iowr(0x82, VRING_STATE, "struct vhost_vring_state")


class IotlbType(enum.IntEnum):
    """``vhost_iotlb_msg.type``; user space writes UPDATE, INVALIDATE and the batch marks."""

    MISS = 1
    UPDATE = 2
    INVALIDATE = 3
    ACCESS_FAIL = 4
    BATCH_BEGIN = 5
    BATCH_END = 6


class IotlbRecord(NamedTuple):
    """A decoded ``vhost_msg_v2``; size in bytes."""

    asid: int
    type: IotlbType
    iova: int
    size: int
    user_address: int
    access: Access


def encode_iotlb(asid: int, message: IotlbMessage) -> bytes:
    """72 bytes of ``struct vhost_msg_v2`` for one ``write``."""
    if isinstance(message, BatchMark):
        return MSG_V2.pack(IOTLB_MSG_V2, asid, 0, 0, 0, 0, message.value)
    if isinstance(message, Unmap):
        return MSG_V2.pack(IOTLB_MSG_V2, asid, message.iova, message.size, 0, 0, IotlbType.INVALIDATE)
    user_address = message.region.address + message.offset
    return MSG_V2.pack(
        IOTLB_MSG_V2, asid, message.iova, message.size, user_address, message.access, IotlbType.UPDATE
    )


def decode_iotlb(record: bytes) -> IotlbRecord:
    """Decode a ``struct vhost_msg_v2``; ValueError if it is not one."""
    if len(record) != MSG_V2.size:
        raise ValueError(f"vhost_msg_v2 has {MSG_V2.size} bytes, not {len(record)}")
    outer, asid, iova, size, user_address, access, kind = MSG_V2.unpack(record)
    if outer != IOTLB_MSG_V2:
        raise ValueError(f"vhost_msg_v2 has type {IOTLB_MSG_V2}, not {outer}")
    return IotlbRecord(asid, IotlbType(kind), iova, size, user_address, Access(access))


def encode_ring_addresses(index: int, addresses: RingAddresses) -> bytes:
    """``struct vhost_vring_addr``: the used ring precedes the available ring, no logging."""
    return VRING_ADDR.pack(index, 0, addresses.descriptors, addresses.used, addresses.available, 0)


def encode_config(offset: int, data: bytes) -> bytes:
    """``struct vhost_vdpa_config``: header and ``data`` to write, or zeroes for a read to fill."""
    return CONFIG_HEADER.pack(offset, len(data)) + data


def decode_iova_range(data: bytes) -> IovaRange:
    """``struct vhost_vdpa_iova_range``, both ends inclusive."""
    return IovaRange(*IOVA_RANGE.unpack(data))
