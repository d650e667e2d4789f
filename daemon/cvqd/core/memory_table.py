"""Guest memory as a front-end describes it: checked regions, and the difference between two tables.

Addresses only.  ``host`` checks that a region's file is as long as the
front-end claims when it maps the file; descriptors are opaque here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from cvqd.errors import FrontendError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvqd.wire.vhost_user import FileDescriptor, FileIdentity

_ADDRESSES = 1 << 64


class MappingKey(NamedTuple):
    """What makes two regions the same mapping: everything but the front-end's own address."""

    guest_address: int
    size: int
    file: FileIdentity
    mmap_offset: int


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """``size`` bytes of a file that the guest and the front-end see at different addresses.

    The region begins at ``mmap_offset`` in the file.  The descriptor belongs to
    the session and stays open as long as the region is in its table.
    """

    guest_address: int
    size: int
    user_address: int
    mmap_offset: int
    descriptor: FileDescriptor

    @property
    def key(self) -> MappingKey:
        """Regions with equal keys can share one mapping."""
        return MappingKey(self.guest_address, self.size, self.descriptor.identity, self.mmap_offset)


def check_region(request: str, region: MemoryRegion) -> None:
    """FrontendError for a region that is empty or extends beyond the end of an address space."""
    if region.size == 0:
        raise FrontendError(request, f"region at guest address {region.guest_address:#x} has no bytes")
    for what, start in (
        ("guest addresses", region.guest_address),
        ("user addresses", region.user_address),
        ("file offsets", region.mmap_offset),
    ):
        if start + region.size > _ADDRESSES:
            raise FrontendError(request, f"{what} of region {start:#x}+{region.size:#x} wrap around")


def check_table(request: str, regions: Iterable[MemoryRegion]) -> None:
    """FrontendError if two regions share a guest or a user address."""
    table = list(regions)
    for what, starts in (
        ("guest", sorted((region.guest_address, region.size) for region in table)),
        ("user", sorted((region.user_address, region.size) for region in table)),
    ):
        for (start, size), (following, _) in pairwise(starts):
            if start + size > following:
                raise FrontendError(
                    request, f"regions at {what} addresses {start:#x} and {following:#x} overlap"
                )


def difference(
    old: tuple[MemoryRegion, ...], new: tuple[MemoryRegion, ...]
) -> tuple[tuple[MemoryRegion, ...], tuple[MemoryRegion, ...]]:
    """Regions to unmap (of ``old``) and to map (of ``new``)."""
    old_keys = {region.key for region in old}
    new_keys = {region.key for region in new}
    return (
        tuple(region for region in old if region.key not in new_keys),
        tuple(region for region in new if region.key not in old_keys),
    )


def guest_address(regions: tuple[MemoryRegion, ...], user_address: int, length: int) -> int | None:
    """Guest-physical address of ``length`` bytes; None unless they lie in one region."""
    for region in regions:
        offset = user_address - region.user_address
        if offset >= 0 and offset + length <= region.size:
            return region.guest_address + offset
    return None
