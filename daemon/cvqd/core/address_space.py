"""Addresses to bytes: a sorted map of extents that do not overlap.

The same class serves for guest memory as the daemon sees it (guest-physical
addresses) and for each address space of the simulator (I/O virtual addresses).
It knows nothing of files or mappings, only of memory views.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from cvqd.errors import GuestError
from cvqd.wire.vhost_vdpa import Access


class Extent(NamedTuple):
    """``len(view)`` bytes that appear from ``start`` on."""

    start: int
    view: memoryview
    access: Access

    @property
    def end(self) -> int:
        """First address after the extent."""
        return self.start + len(self.view)


class AddressSpace:
    """Lookup is by bisection; ranges may span neighbouring extents."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._extents: list[Extent] = []

    def __len__(self) -> int:
        return len(self._extents)

    @property
    def extents(self) -> tuple[Extent, ...]:
        """All extents, lowest address first."""
        return tuple(self._extents)

    def add(self, start: int, view: memoryview, access: Access = Access.READ_WRITE) -> None:
        """Add an extent; ValueError if it is empty or shares a byte with another."""
        if not len(view):
            raise ValueError("an extent has at least one byte")
        place = bisect_right(self._starts, start)
        end = start + len(view)
        if place and self._extents[place - 1].end > start:
            raise ValueError(f"{start:#x}+{len(view):#x} overlaps the extent at {self._starts[place - 1]:#x}")
        if place < len(self._starts) and self._starts[place] < end:
            raise ValueError(f"{start:#x}+{len(view):#x} overlaps the extent at {self._starts[place]:#x}")
        self._starts.insert(place, start)
        self._extents.insert(place, Extent(start, view, access))

    def remove(self, start: int, size: int) -> int:
        """Remove, whole, every extent that touches the range; return the number removed."""
        end = start + size
        kept = [extent for extent in self._extents if extent.start >= end or start >= extent.end]
        removed = len(self._extents) - len(kept)
        self._extents = kept
        self._starts = [extent.start for extent in kept]
        return removed

    def slices(self, address: int, length: int, access: Access) -> list[memoryview]:
        """The bytes of a range as views, in order; GuestError if any byte is missing or forbidden."""
        found: list[memoryview] = []
        place = bisect_right(self._starts, address) - 1
        while length > 0:
            if place < 0 or place >= len(self._extents):
                raise GuestError("memory.unmapped", f"nothing is mapped at {address:#x}")
            extent = self._extents[place]
            offset = address - extent.start
            available = len(extent.view) - offset
            if offset < 0 or available <= 0:
                raise GuestError("memory.unmapped", f"nothing is mapped at {address:#x}")
            # flag arithmetic costs more than the rest of the look-up, and most extents allow everything
            if extent.access is not Access.READ_WRITE and access & ~extent.access:
                raise GuestError("memory.permission", f"{access.name} is not allowed at {address:#x}")
            part = min(length, available)
            found.append(extent.view[offset : offset + part])
            address += part
            length -= part
            place += 1
        return found

    def contiguous(self, address: int, length: int, access: Access) -> memoryview:
        """The bytes of a range as one view; GuestError also if they span several extents."""
        views = self.slices(address, length, access)
        if len(views) != 1:
            raise GuestError("memory.split", f"{address:#x}+{length:#x} does not lie in one region")
        return views[0]
