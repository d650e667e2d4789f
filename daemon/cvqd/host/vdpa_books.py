"""A record of what the kernel has mapped, kept to explain its EFAULT.

vhost-vdpa answers every IOTLB failure with EFAULT.  These books record the
messages that succeeded and repeat the kernel's checks in the kernel's order
(``vhost_vdpa_process_iotlb_msg`` and ``vhost_vdpa_process_iotlb_update`` in
``drivers/vhost/vdpa.c``) to find out which one failed.  They survive a reset, as
the kernel's own table does, and decide nothing.
"""

from __future__ import annotations

import os
import resource
from bisect import bisect_right, insort
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.wire.vhost_vdpa import BatchMark, Map, Unmap

if TYPE_CHECKING:
    from cvqd.wire.vhost_vdpa import IotlbMessage, IovaRange

#: Entries per address space unless the module was loaded with another ``max_iotlb_entries``.
ENTRY_LIMIT: Final = 2048

_LIMIT_PARAMETER: Final = Path("/sys/module/vhost_vdpa/parameters/max_iotlb_entries")

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class _Entry(NamedTuple):
    iova: int
    last: int


class MappingBooks:
    """Successful messages of one owner, per address space."""

    def __init__(self, iova_range: IovaRange, address_spaces: int) -> None:
        self._range = iova_range
        self._address_spaces = address_spaces
        self._owner = os.getpid()
        self._entry_limit = _entry_limit()
        self._mapped: dict[int, list[_Entry]] = {}
        self._batch: int | None = None

    def mapped(self, asid: int) -> int:
        """Number of ranges mapped in an address space."""
        return len(self._mapped.get(asid, []))

    def record(self, asid: int, message: IotlbMessage) -> None:
        """Record a message that the kernel accepted."""
        match message:
            case Map(iova=iova, size=size):
                insort(self._mapped.setdefault(asid, []), _Entry(iova, iova + size - 1))
            case Unmap(iova=iova, size=size):
                last = iova + size - 1
                entries = self._mapped.setdefault(asid, [])
                # an entry is removed whole if it shares a byte with the range
                entries[:] = [entry for entry in entries if entry.iova > last or entry.last < iova]
            case BatchMark.BEGIN:
                self._mapped.setdefault(asid, [])
                self._batch = asid
            case BatchMark.END:
                self._batch = None

    def cause(self, asid: int, message: IotlbMessage) -> str:
        """Why the kernel refused a message, as far as the books can tell."""
        if os.getpid() != self._owner:
            return f"not the owner: process {self._owner} opened the device, this is its child {os.getpid()}"
        if asid >= self._address_spaces:
            return f"address space {asid} does not exist: the device has {self._address_spaces}"
        if self._batch not in (None, asid):
            return f"a batch is open for address space {self._batch}"
        match message:
            case Map():
                return self._refused_map(asid, message)
            case Unmap() | BatchMark.END if asid not in self._mapped:
                return f"nothing was ever mapped in address space {asid}"
            case _:
                return "unknown: the device or the kernel refused it"

    def _refused_map(self, asid: int, message: Map) -> str:
        last = message.iova + message.size - 1
        if message.size == 0:
            return "size 0"
        if message.iova < self._range.first or last > self._range.last:
            return (
                f"outside the IOVA range {self._range.first:#x}-{self._range.last:#x} of the device: "
                f"{message.iova:#x}-{last:#x}"
            )
        other = self._overlapping(asid, message.iova, last)
        if other is not None:
            return f"overlaps {other.iova:#x}-{other.last:#x}, mapped in address space {asid}"
        if self.mapped(asid) >= self._entry_limit:
            return f"entry limit: address space {asid} has {self.mapped(asid)} entries"
        return _memlock(message) or (
            "unknown: out of memory, refused by the device, or (where memory is pinned) in more than "
            f"{self._entry_limit} pieces that do not lie side by side; huge pages help"
        )

    def _overlapping(self, asid: int, iova: int, last: int) -> _Entry | None:
        entries = self._mapped.get(asid, [])
        place = bisect_right(entries, _Entry(last, last))
        # the entries do not overlap, so of those below only the nearest can reach into the range
        candidates = entries[max(place - 1, 0) : place + 1]
        return next((entry for entry in candidates if entry.iova <= last and entry.last >= iova), None)


def _entry_limit() -> int:
    try:
        return int(_LIMIT_PARAMETER.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return ENTRY_LIMIT


def _memlock(message: Map) -> str:
    """The cause if it is ``RLIMIT_MEMLOCK``, against which devices that use physical addresses pin pages."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY:
        return ""
    pinned = _pinned_bytes()
    pages = -(-(message.size + message.iova % _PAGE) // _PAGE)
    need = pinned + pages * _PAGE
    if need <= limit:
        return ""
    return (
        f"memlock limit: {limit} bytes allowed, {need} needed ({pinned} pinned already); raise LimitMEMLOCK"
    )


def _pinned_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmPin:"):
            return int(line.split()[1]) * 1024
    return 0
