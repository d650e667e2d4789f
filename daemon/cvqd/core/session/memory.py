"""The guest memory of one session: SET_MEM_TABLE, ADD_MEM_REG and REM_MEM_REG.

A region that is sent again with the same file at the same place is kept, with
its first descriptor, so that its mapping is never touched.  QEMU's network
device has a front-end object for each queue pair, and in some versions (7.2)
each of them adds and removes every region: a region that was added n times is
there until it has been removed n times.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from cvqd.core import memory_table
from cvqd.core.memory_table import MemoryRegion
from cvqd.core.session.effects import MemoryChanged
from cvqd.errors import FrontendError
from cvqd.wire.vhost_user import FrontRequest

if TYPE_CHECKING:
    from cvqd.core.memory_table import MappingKey
    from cvqd.wire.vhost_user import FileDescriptor
    from cvqd.wire.vhost_user_payloads import RegionDescription


class SessionMemory:
    """``regions`` in the front-end's order.

    Descriptors that are kept are taken out of ``unclaimed``; at most ``most`` regions are allowed.
    """

    def __init__(self) -> None:
        self.regions: tuple[MemoryRegion, ...] = ()
        #: how often a region was added beyond the first time
        self._again: Counter[MappingKey] = Counter()

    def replace(
        self, descriptions: tuple[RegionDescription, ...], unclaimed: list[FileDescriptor], most: int
    ) -> MemoryChanged:
        """SET_MEM_TABLE: a new table, one descriptor for each region."""
        name = FrontRequest.SET_MEM_TABLE.name
        if len(descriptions) > most:
            raise FrontendError(name, f"{len(descriptions)} regions, at most {most} are allowed")
        if len(descriptions) != len(unclaimed):
            raise FrontendError(name, f"{len(unclaimed)} descriptors for {len(descriptions)} regions")
        self._again.clear()
        return self._change(
            name,
            tuple(
                MemoryRegion(*description, descriptor)
                for description, descriptor in zip(descriptions, unclaimed, strict=True)
            ),
            unclaimed,
        )

    def add(
        self, description: RegionDescription, unclaimed: list[FileDescriptor], most: int
    ) -> MemoryChanged:
        """ADD_MEM_REG: one more region."""
        name = FrontRequest.ADD_MEM_REG.name
        region = MemoryRegion(*description, unclaimed[0])
        if any(
            known.key == region.key and known.user_address == region.user_address for known in self.regions
        ):
            self._again[region.key] += 1
            return MemoryChanged((), ())
        if len(self.regions) >= most:
            raise FrontendError(name, f"all {most} memory slots are in use")
        return self._change(name, (*self.regions, region), unclaimed)

    def remove(self, description: RegionDescription) -> MemoryChanged:
        """REM_MEM_REG: the region with these addresses and size; its offset does not count."""
        name = FrontRequest.REM_MEM_REG.name
        wanted = description[:3]
        for region in self.regions:
            if (region.guest_address, region.size, region.user_address) == wanted:
                break
        else:
            raise FrontendError(name, f"there is no such region at {description.guest_address:#x}")
        if self._again[region.key]:
            self._again[region.key] -= 1
            return MemoryChanged((), ())
        return self._change(name, tuple(each for each in self.regions if each is not region), [])

    def _change(
        self, name: str, wanted: tuple[MemoryRegion, ...], unclaimed: list[FileDescriptor]
    ) -> MemoryChanged:
        for region in wanted:
            memory_table.check_region(name, region)
        memory_table.check_table(name, wanted)
        known = {region.key: region for region in self.regions}
        table = tuple(
            replace(known[region.key], user_address=region.user_address) if region.key in known else region
            for region in wanted
        )
        removed, added = memory_table.difference(self.regions, table)
        for region in added:
            unclaimed.remove(region.descriptor)
        self.regions = table
        return MemoryChanged(removed, added)
