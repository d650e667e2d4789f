"""Guest memory: mapped in the device's address space 0 and readable here, region by region."""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING

from cvqd.core.address_space import AddressSpace
from cvqd.core.isolation import GUEST_ASID
from cvqd.errors import FrontendError
from cvqd.wire.vhost_vdpa import Access, Map

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cvqd.core.memory_table import MemoryRegion
    from cvqd.events import EventLog
    from cvqd.host.shared_memory import SharedMemory
    from cvqd.owner.owned_device import OwnedDevice


class GuestMemory:
    """The regions that a front-end shared, by guest-physical address."""

    def __init__(self, device: OwnedDevice, log: EventLog) -> None:
        self.space = AddressSpace()
        #: the device that follows each change
        self.device = device
        self._log = log

    @property
    def bytes(self) -> int:
        """Size of all regions together."""
        return sum(len(extent.view) for extent in self.space.extents)

    def displaces(self, added: Mapping[int, SharedMemory]) -> bool:
        """Whether these regions overlap shadow memory in the same address space."""
        return any(self.device.shadow.overlaps(GUEST_ASID, start, len(part)) for start, part in added.items())

    def check_reach(self, request: str, regions: tuple[MemoryRegion, ...]) -> None:
        """FrontendError, blaming ``request``, if a region is outside the device's IOVA range."""
        first, last = self.device.facts.iova
        for region in regions:
            if region.guest_address < first or region.guest_address + region.size - 1 > last:
                raise FrontendError(
                    request,
                    f"region {region.guest_address:#x}+{region.size:#x} is outside"
                    f" the device's addresses {first:#x} to {last:#x}",
                )

    async def change(self, removed: Iterable[int], added: Mapping[int, SharedMemory]) -> None:
        """Unmap regions by guest address, then map others; what stays is not touched.

        The caller stops the device first where a running ring would lose its memory
        or where ``displaces`` says that the shadow memory has to move.
        """
        begun = monotonic_ns()
        gone = list(removed)
        if self.displaces(added):
            await self.device.shadow.withdraw(self.device.mappings)
        maps = [Map(start, len(part), part, 0, Access.READ_WRITE) for start, part in added.items()]
        for start in gone:
            self.space.remove(start, 1)
        await self.device.mappings.change(GUEST_ASID, gone, maps)
        for start, part in added.items():
            self.space.add(start, part.view)
        self._log.emit(
            "memory.mapped",
            regions=len(self.space),
            bytes=self.bytes,
            added=len(added),
            removed=len(gone),
            elapsed_us=(monotonic_ns() - begun) // 1000,
        )

    async def show(self, device: OwnedDevice) -> None:
        """Map every region on another device as well, which has none of them yet."""
        starts = {extent.start for extent in self.space.extents}
        here = self.device.mappings.mapped(GUEST_ASID)
        await device.mappings.change(GUEST_ASID, (), [entry for entry in here if entry.iova in starts])

    async def release(self) -> None:
        """Forget every region; the device must be stopped."""
        await self.change([extent.start for extent in self.space.extents], {})
