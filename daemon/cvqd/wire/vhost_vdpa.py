"""The vhost-vdpa user API: the values that are passed to a device.

Source: Linux ``include/uapi/linux/vhost.h`` and ``vhost_types.h``.  The
simulator takes these values directly; ``vhost_vdpa_ioctl`` has their bytes for
the kernel.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol


class Access(enum.IntFlag):
    """What the device may do with mapped memory, ``VHOST_ACCESS_*``."""

    READ = 1
    WRITE = 2
    READ_WRITE = 3


class Region(Protocol):
    """Shared memory that can be mapped into a device's address space."""

    @property
    def view(self) -> memoryview:
        """All bytes of the region, writable; the simulator reads and writes here."""

    @property
    def address(self) -> int:
        """Address of the region in this process; this is passed to the kernel."""


class Map(NamedTuple):
    """``VHOST_IOTLB_UPDATE``: ``size`` bytes of ``region`` from ``offset`` appear at ``iova``."""

    iova: int
    size: int
    region: Region
    offset: int
    access: Access


class Unmap(NamedTuple):
    """``VHOST_IOTLB_INVALIDATE``: every entry that touches the range is removed, whole."""

    iova: int
    size: int


class BatchMark(enum.Enum):
    """``VHOST_IOTLB_BATCH_BEGIN`` and ``_END``: changes between them take effect at the end."""

    BEGIN = 5
    END = 6


IotlbMessage = Map | Unmap | BatchMark


class IovaRange(NamedTuple):
    """Usable device addresses, both ends inclusive."""

    first: int
    last: int


class Backend(enum.IntEnum):
    """Backend feature *bit numbers*, ``VHOST_BACKEND_F_*``."""

    IOTLB_MSG_V2 = 1
    IOTLB_BATCH = 2
    IOTLB_ASID = 3
    SUSPEND = 4
    RESUME = 5
    ENABLE_AFTER_DRIVER_OK = 6
    DESC_ASID = 7
    IOTLB_PERSIST = 8

    @property
    def mask(self) -> int:
        """The bit as a value of the backend feature word."""
        return 1 << self


def backend_names(word: int) -> list[str]:
    """Names of the set backend bits, lowest first."""
    return [bit.name for bit in Backend if word >> bit & 1]
