"""The vhost-user message: header, request names, protocol features, limits.

Source: QEMU ``docs/interop/vhost-user.rst``.  A message is a 12-byte header, a
payload of ``size`` bytes and a few file descriptors at most, which travel with
the header's first byte.  Numbers are in host byte order, unlike those in rings.
Payloads are in ``wire.vhost_user_payloads``, the rules on which message is
allowed when in ``core.session``.  Nothing here does I/O on a descriptor.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple, Protocol

from cvqd.errors import FrontendError

HEADER: Final = struct.Struct("=III")

VERSION: Final = 1
FLAG_REPLY: Final = 0x4
FLAG_NEED_REPLY: Final = 0x8

#: Flag words of a request without and with need_reply, and of every reply:
#: QEMU and virtio_uml compare a reply's whole word, so need_reply is never echoed.
REQUEST_FLAGS: Final = VERSION
REQUEST_FLAGS_NEED_REPLY: Final = VERSION | FLAG_NEED_REPLY
REPLY_FLAGS: Final = VERSION | FLAG_REPLY

#: Largest payload that is read, in bytes; every request that cvqd serves needs less.
MAX_PAYLOAD: Final = 4096

#: Descriptors that a message may carry: more than any memory table has, so that an excess can be reported.
MAX_DESCRIPTORS: Final = 64

#: Bytes of configuration space per message, ``VHOST_USER_MAX_CONFIG_SIZE``.
MAX_CONFIG: Final = 256

#: Regions of SET_MEM_TABLE without CONFIGURE_MEM_SLOTS, ``VHOST_MEMORY_BASELINE_NREGIONS`` of QEMU.
MAX_TABLE_REGIONS: Final = 8


class FrontRequest(enum.IntEnum):
    """Requests of a front-end: every number that the specification assigns."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43
    GET_SHMEM_CONFIG = 44


class BackRequest(enum.IntEnum):
    """Requests of a back-end, on the channel set by SET_BACKEND_REQ_FD."""

    IOTLB_MSG = 1
    CONFIG_CHANGE_MSG = 2
    VRING_HOST_NOTIFIER_MSG = 3
    VRING_CALL = 4
    VRING_ERR = 5
    SHARED_OBJECT_ADD = 6
    SHARED_OBJECT_REMOVE = 7
    SHARED_OBJECT_LOOKUP = 8
    SHMEM_MAP = 9
    SHMEM_UNMAP = 10


class ProtocolFeature(enum.IntEnum):
    """Protocol feature *bit numbers*, ``VHOST_USER_PROTOCOL_F_*``."""

    MQ = 0
    LOG_SHMFD = 1
    RARP = 2
    REPLY_ACK = 3
    MTU = 4
    BACKEND_REQ = 5
    CROSS_ENDIAN = 6
    CRYPTO_SESSION = 7
    PAGEFAULT = 8
    CONFIG = 9
    BACKEND_SEND_FD = 10
    HOST_NOTIFIER = 11
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    INBAND_NOTIFICATIONS = 14
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16
    XEN_MMAP = 17
    SHARED_OBJECT = 18
    DEVICE_STATE = 19
    GET_VRING_BASE_INFLIGHT = 20
    GPA_ADDRESSES = 21
    SHMEM = 22

    @property
    def mask(self) -> int:
        """The bit as a value of the protocol feature word."""
        return 1 << self


#: Protocol features that cvqd serves and therefore offers.
PROTOCOL_FEATURES_SERVED: Final = (
    ProtocolFeature.MQ.mask
    | ProtocolFeature.REPLY_ACK.mask
    | ProtocolFeature.MTU.mask
    | ProtocolFeature.BACKEND_REQ.mask
    | ProtocolFeature.CONFIG.mask
    | ProtocolFeature.RESET_DEVICE.mask
    | ProtocolFeature.CONFIGURE_MEM_SLOTS.mask
    | ProtocolFeature.STATUS.mask
    | ProtocolFeature.DEVICE_STATE.mask
)


def protocol_feature_names(word: int) -> list[str]:
    """Names of the set bits, lowest first; a bit without a name reads ``bit_N``."""
    known = {bit.value: bit.name for bit in ProtocolFeature}
    return [known.get(bit, f"bit_{bit}") for bit in range(64) if word >> bit & 1]


def request_name(number: int) -> str:
    """``SET_FEATURES`` and so on; ``REQUEST_99`` for a number without a name."""
    try:
        return FrontRequest(number).name
    except ValueError:
        return f"REQUEST_{number}"


class DescriptorKind(enum.Enum):
    """What a received descriptor refers to, as far as vhost-user cares."""

    EVENTFD = "eventfd"
    SOCKET = "socket"
    PIPE = "pipe"
    FILE = "file"
    OTHER = "other"


class FileIdentity(NamedTuple):
    """Two descriptors with equal identities refer to one file."""

    device: int
    inode: int


class FileDescriptor(Protocol):
    """A received descriptor, opaque to everything but ``host``; closing twice is harmless."""

    @property
    def identity(self) -> FileIdentity:
        """Which file it refers to; valid even after ``close``."""

    @property
    def kind(self) -> DescriptorKind:
        """What sort of file it refers to; valid even after ``close``."""

    def fileno(self) -> int:
        """The number, for code that may do I/O."""

    def close(self) -> None:
        """Give the descriptor back."""


class Header(NamedTuple):
    """Request number, flag word, payload bytes."""

    request: int
    flags: int
    size: int

    def encode(self) -> bytes:
        """The 12 bytes."""
        return HEADER.pack(*self)


def decode_header(data: bytes) -> Header:
    """Header of a *request*.

    FrontendError unless there are 12 bytes, for flags that are neither 0x1 nor
    0x9 (wrong version, a reply) and for payloads above ``MAX_PAYLOAD``.
    """
    if len(data) != HEADER.size:
        raise FrontendError("header", f"truncated: {len(data)} of {HEADER.size} bytes")
    header = Header._make(HEADER.unpack(data))
    name = request_name(header.request)
    if header.flags not in (REQUEST_FLAGS, REQUEST_FLAGS_NEED_REPLY):
        raise FrontendError(name, f"flags {header.flags:#x} are no request of version {VERSION}")
    if header.size > MAX_PAYLOAD:
        raise FrontendError(name, f"payload of {header.size} bytes is above the limit of {MAX_PAYLOAD}")
    return header


class Message(NamedTuple):
    """One whole request of a front-end; whoever receives it owns its descriptors."""

    request: int
    flags: int
    payload: bytes = b""
    descriptors: tuple[FileDescriptor, ...] = ()

    @property
    def name(self) -> str:
        """The request as the protocol spells it."""
        return request_name(self.request)

    @property
    def need_reply(self) -> bool:
        """The front-end asked for an acknowledgement; it may do so only with REPLY_ACK."""
        return bool(self.flags & FLAG_NEED_REPLY)

    def close(self) -> None:
        """Close all descriptors."""
        for descriptor in self.descriptors:
            descriptor.close()


def encode_request(request: int, payload: bytes = b"", *, need_reply: bool = False) -> bytes:
    """A request, from either end."""
    flags = REQUEST_FLAGS_NEED_REPLY if need_reply else REQUEST_FLAGS
    return Header(request, flags, len(payload)).encode() + payload


def encode_reply(request: int, payload: bytes) -> bytes:
    """The answer to ``request``."""
    return Header(request, REPLY_FLAGS, len(payload)).encode() + payload
