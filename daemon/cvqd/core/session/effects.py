"""What a front-end's message asks of the device: one frozen value per kind.

``Session.receive`` returns at most one.  The glue carries it out, then passes
the result that the effect's docstring names to ``Session.reply``.  The
session's own data (rings, features, memory) is already updated when an effect
is returned, so the glue may look there for everything else.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cvqd.core.memory_table import MemoryRegion
    from cvqd.wire.vhost_user import FileDescriptor
    from cvqd.wire.vhost_user_payloads import TransferDirection


class RingDescriptor(enum.Enum):
    """The three descriptors of a ring."""

    KICK = "kick"
    CALL = "call"
    ERR = "err"


@dataclass(frozen=True, slots=True)
class SetFeatures:
    """SET_FEATURES: ``features`` without vhost-user's own bit 30; may be repeated.

    Without bit 30 every ring is enabled now (``implicit_enable``).  Result None, or ``Refusal``:
    then the session's features are what they were before.
    """

    features: int
    implicit_enable: bool


@dataclass(frozen=True, slots=True)
class MemoryChanged:
    """SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG: removals come first; both may be empty.

    Ring addresses have to be translated again.  Removed descriptors are
    closed by ``reply``.  Result None; a region that cannot be mapped is an exception.
    """

    removed: tuple[MemoryRegion, ...]
    added: tuple[MemoryRegion, ...]


@dataclass(frozen=True, slots=True)
class RingConfigured:
    """SET_VRING_NUM, _ADDR or _BASE: see ``session.rings[index]``.  Result None."""

    index: int


@dataclass(frozen=True, slots=True)
class RingDescriptorChanged:
    """SET_VRING_KICK, _CALL or _ERR: the new descriptor (or None) is in ``session.rings[index]``.

    ``old`` stays open until ``reply``, which closes it: bind the new one first.  Result None.
    """

    index: int
    which: RingDescriptor
    old: FileDescriptor | None


@dataclass(frozen=True, slots=True)
class RingKicked:
    """VRING_KICK: the guest has made buffers available in ring ``index``.  Result None."""

    index: int


@dataclass(frozen=True, slots=True)
class RingEnabled:
    """SET_VRING_ENABLE changed ``session.rings[index].enabled``.  Result None."""

    index: int


@dataclass(frozen=True, slots=True)
class RingStopped:
    """GET_VRING_BASE: stop the ring; the session no longer has its kick and call.

    ``reply`` closes them.  Result: the base from which to continue (split: next
    available index), or None for a ring that has not run since its base was set.
    """

    index: int
    kick: FileDescriptor | None
    call: FileDescriptor | None


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """GET_CONFIG.  Result: exactly ``size`` bytes, or ``Refusal``."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class WriteConfig:
    """SET_CONFIG; ``flags`` bit 0 marks a write by migration.  Result None or ``Refusal``."""

    offset: int
    data: bytes
    flags: int


@dataclass(frozen=True, slots=True)
class SetMtu:
    """NET_SET_MTU: the guest's frames will carry at most ``mtu`` bytes.  Result None or ``Refusal``."""

    mtu: int


@dataclass(frozen=True, slots=True)
class SetStatus:
    """SET_STATUS; 0 resets the device.  Result None or ``Refusal`` (``session.status`` is rolled back)."""

    old: int
    new: int


@dataclass(frozen=True, slots=True)
class GetStatus:
    """GET_STATUS.  Result: the status byte, or None for the session's own."""


@dataclass(frozen=True, slots=True)
class ResetDevice:
    """RESET_DEVICE: all rings are disabled, status is 0; memory and features stay.  Result None."""


@dataclass(frozen=True, slots=True)
class TransferDeviceState:
    """SET_DEVICE_STATE_FD: transfer state through ``descriptor``, which the glue has to close.

    Result None, or ``Refusal``.  The transfer itself has to wait until the reply is sent.
    """

    direction: TransferDirection
    descriptor: FileDescriptor


@dataclass(frozen=True, slots=True)
class CheckDeviceState:
    """CHECK_DEVICE_STATE: how the transfer ended.  Result None for success, or ``Refusal``."""


Effect = (
    SetFeatures
    | MemoryChanged
    | RingConfigured
    | RingDescriptorChanged
    | RingKicked
    | RingEnabled
    | RingStopped
    | ReadConfig
    | WriteConfig
    | SetMtu
    | SetStatus
    | GetStatus
    | ResetDevice
    | TransferDeviceState
    | CheckDeviceState
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A result: the device refuses the request.

    Only SET_FEATURES, NET_SET_MTU, SET_CONFIG, GET_CONFIG, SET_STATUS, SET_DEVICE_STATE_FD and
    CHECK_DEVICE_STATE can be refused.  With need_reply the front-end gets a non-zero
    acknowledgement.  Without it, a refused SET_FEATURES ends the connection (``reply`` raises
    FrontendError), GET_CONFIG and the two device state requests have error replies of their own,
    and the others go unnoticed.
    """

    reason: str


Result = int | bytes | Refusal | None
