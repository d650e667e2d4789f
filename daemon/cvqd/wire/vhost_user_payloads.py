"""Payloads of the vhost-user requests that cvqd serves: bytes to frozen values and back.

Source: QEMU ``docs/interop/vhost-user.rst``.  Host byte order.  Decoders check
lengths and counts and raise ``FrontendError``; ``core.session`` checks whether
values make sense.  Bytes after a fixed-size payload are tolerated:
``virtio_uml`` of Linux 6.12 sends 72 bytes for a table of one region.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from cvqd.errors import FrontendError
from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_user import MAX_CONFIG, MAX_DESCRIPTORS

_U64: Final = struct.Struct("=Q")
_VRING_STATE: Final = struct.Struct("=II")
_VRING_ADDRESS: Final = struct.Struct("=IIQQQQ")
_REGION: Final = struct.Struct("=QQQQ")
_TABLE: Final = struct.Struct("=II")
_SINGLE_PADDING: Final = struct.Struct("=Q")
_CONFIG: Final = struct.Struct("=III")
_DEVICE_STATE: Final = struct.Struct("=II")

_RING_INDEX_MASK: Final = 0xFF
_NO_DESCRIPTOR: Final = 0x100


def _demand(name: str, payload: bytes, size: int) -> None:
    if len(payload) < size:
        raise FrontendError(name, f"payload of {len(payload)} bytes, {size} are needed")


def encode_u64(value: int) -> bytes:
    """Eight bytes: feature words, counts, acknowledgements (0 is success)."""
    return _U64.pack(value)


def decode_u64(name: str, payload: bytes) -> int:
    """The number; ``name`` is the request to name in a FrontendError, here and below."""
    _demand(name, payload, _U64.size)
    (value,) = _U64.unpack_from(payload)
    return int(value)


@dataclass(frozen=True, slots=True)
class VringState:
    """Ring index and a number: ring size, base, or 0/1 for enable."""

    index: int
    num: int

    def encode(self) -> bytes:
        """Eight bytes."""
        return _VRING_STATE.pack(self.index, self.num)


def decode_vring_state(name: str, payload: bytes) -> VringState:
    """Of SET_VRING_NUM, _BASE, _ENABLE and GET_VRING_BASE."""
    _demand(name, payload, _VRING_STATE.size)
    return VringState(*_VRING_STATE.unpack_from(payload))


@dataclass(frozen=True, slots=True)
class VringAddress:
    """Where a ring lies in the *front-end's* address space; ``flags`` bit 0 asks for logging."""

    index: int
    flags: int
    addresses: RingAddresses
    log: int = 0

    def encode(self) -> bytes:
        """Forty bytes; note that the used ring comes before the available ring."""
        ring = self.addresses
        return _VRING_ADDRESS.pack(
            self.index, self.flags, ring.descriptors, ring.used, ring.available, self.log
        )


def decode_vring_address(name: str, payload: bytes) -> VringAddress:
    """Of SET_VRING_ADDR."""
    _demand(name, payload, _VRING_ADDRESS.size)
    index, flags, descriptors, used, available, log = _VRING_ADDRESS.unpack_from(payload)
    return VringAddress(index, flags, RingAddresses(descriptors, available, used), log)


@dataclass(frozen=True, slots=True)
class VringDescriptor:
    """Of SET_VRING_KICK, _CALL and _ERR: ring index, and whether a descriptor is attached."""

    index: int
    present: bool

    def encode(self) -> bytes:
        """Eight bytes: index in bits 0-7, bit 8 set for *no* descriptor."""
        return _U64.pack(self.index & _RING_INDEX_MASK | (0 if self.present else _NO_DESCRIPTOR))


def decode_vring_descriptor(name: str, payload: bytes) -> VringDescriptor:
    """Index and presence; reserved bits are ignored, as QEMU's and rust-vmm's back-ends do."""
    word = decode_u64(name, payload)
    return VringDescriptor(word & _RING_INDEX_MASK, not word & _NO_DESCRIPTOR)


class RegionDescription(NamedTuple):
    """One region of guest memory: addresses and sizes in bytes, unchecked."""

    guest_address: int
    size: int
    user_address: int
    mmap_offset: int

    def encode_single(self) -> bytes:
        """Payload of ADD_MEM_REG and REM_MEM_REG: eight bytes padding, then the region."""
        return _SINGLE_PADDING.pack(0) + _REGION.pack(*self)


def encode_memory_table(regions: tuple[RegionDescription, ...]) -> bytes:
    """Payload of SET_MEM_TABLE."""
    return _TABLE.pack(len(regions), 0) + b"".join(_REGION.pack(*region) for region in regions)


def decode_memory_table(name: str, payload: bytes) -> tuple[RegionDescription, ...]:
    """Regions of SET_MEM_TABLE; bytes after the last region of the count are ignored."""
    _demand(name, payload, _TABLE.size)
    count, _padding = _TABLE.unpack_from(payload)
    if count > MAX_DESCRIPTORS:
        raise FrontendError(name, f"{count} regions are more than one message can carry")
    _demand(name, payload, _TABLE.size + count * _REGION.size)
    return tuple(
        RegionDescription._make(_REGION.unpack_from(payload, _TABLE.size + entry * _REGION.size))
        for entry in range(count)
    )


def decode_single_region(name: str, payload: bytes) -> RegionDescription:
    """Of ADD_MEM_REG and REM_MEM_REG."""
    _demand(name, payload, _SINGLE_PADDING.size + _REGION.size)
    return RegionDescription._make(_REGION.unpack_from(payload, _SINGLE_PADDING.size))


class ConfigAccess(NamedTuple):
    """Of GET_CONFIG and SET_CONFIG; a read carries as many dummy bytes as it asks for."""

    offset: int
    flags: int
    data: bytes

    def encode(self) -> bytes:
        """Twelve bytes and the data."""
        return _CONFIG.pack(self.offset, len(self.data), self.flags) + self.data


def decode_config(name: str, payload: bytes) -> ConfigAccess:
    """Of GET_CONFIG and SET_CONFIG: exactly 1 to ``MAX_CONFIG`` bytes of data; the reply has as many."""
    _demand(name, payload, _CONFIG.size)
    offset, size, flags = _CONFIG.unpack_from(payload)
    if not 0 < size <= MAX_CONFIG:
        raise FrontendError(name, f"{size} bytes of configuration, 1 to {MAX_CONFIG} are allowed")
    if len(payload) != _CONFIG.size + size:
        raise FrontendError(name, f"payload of {len(payload)} bytes, {_CONFIG.size + size} are needed")
    return ConfigAccess(offset, flags, payload[_CONFIG.size :])


class TransferDirection(enum.IntEnum):
    """Which way a device's state goes, seen from the device."""

    SAVE = 0
    LOAD = 1


def encode_device_state(direction: int, phase: int = 0) -> bytes:
    """Payload of SET_DEVICE_STATE_FD: eight bytes; phase 0 says that the device is stopped."""
    return _DEVICE_STATE.pack(direction, phase)


def decode_device_state(name: str, payload: bytes) -> TransferDirection:
    """Of SET_DEVICE_STATE_FD; the only phase is 0."""
    _demand(name, payload, _DEVICE_STATE.size)
    direction, phase = _DEVICE_STATE.unpack_from(payload)
    if phase:
        raise FrontendError(name, f"phase {phase} is not 0, in which the device is stopped")
    try:
        return TransferDirection(direction)
    except ValueError:
        raise FrontendError(name, f"direction {direction} is neither 0 nor 1") from None


def encode_transfer_begun(*, refused: bool) -> bytes:
    """Reply to SET_DEVICE_STATE_FD: error code in the low byte; bit 8: use the front-end's own descriptor."""
    return _U64.pack(_NO_DESCRIPTOR | int(refused))
