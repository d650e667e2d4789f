"""The shadow control queue's memory: made once, placed in an address space, used by one queue at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.core.isolation import GUEST_ASID
from cvqd.core.lifecycle import RingPlan
from cvqd.core.queues.shadow_queue import PAGE, SHORT_ANSWER, ShadowLayout, ShadowQueue
from cvqd.errors import DeviceError
from cvqd.host import shared_memory
from cvqd.wire.control_frame import ACK
from cvqd.wire.control_stats import CVQ_RESULT, PAIR_RESULT
from cvqd.wire.vhost_vdpa import Access, Map
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.core.lifecycle import DeviceFacts
    from cvqd.core.mappings import Mappings
    from cvqd.wire.ring_format import RingFormat

#: descriptors of the shadow ring (two for each command in flight) where the device allows that many
RING: Final = 128


def longest_answer(facts: DeviceFacts) -> int:
    """Bytes of the longest answer a guest can need: each block of statistics of each queue, once."""
    if not facts.features & Feature.DEVICE_STATS.mask:
        return SHORT_ANSWER
    return -(-(ACK + facts.max_pairs * PAIR_RESULT + CVQ_RESULT) // PAGE) * PAGE


class ShadowMemory:
    """Private to the daemon and the device; pages that no command used are never touched."""

    def __init__(self, facts: DeviceFacts, max_command: int) -> None:
        self._iova_range = facts.iova
        self._layout = ShadowLayout(min(RING, facts.smallest_ring), max_command, longest_answer(facts))
        self._region = shared_memory.create("cvqd-shadow", self._layout.size)
        self._placed: tuple[int, int] | None = None

    @property
    def placed(self) -> tuple[int, int] | None:
        """Address space and address, while the device can see the memory."""
        return self._placed

    @property
    def max_answer(self) -> int:
        """Bytes that an answer may have."""
        return self._layout.max_answer

    @property
    def size(self) -> int:
        """Bytes."""
        return self._layout.size

    @property
    def view(self) -> memoryview:
        """All of it, for tests that check that nobody else wrote here."""
        return self._region.view

    def overlaps(self, asid: int, start: int, size: int) -> bool:
        """Whether a range of an address space would collide with the memory where it is placed."""
        if self._placed is None or self._placed[0] != asid:
            return False
        own = self._placed[1]
        return own < start + size and start < own + self._layout.size

    async def place(self, mappings: Mappings, asid: int) -> None:
        """Map the memory at free addresses; DeviceError where there is no room."""
        if self._placed is not None and self._placed[0] == asid:
            return
        await self.withdraw(mappings)
        iova = self._free_address(mappings, asid)
        readable = self._layout.readable
        parts = [
            Map(iova, readable, self._region, 0, Access.READ),
            Map(iova + readable, self._layout.size - readable, self._region, readable, Access.READ_WRITE),
        ]
        await mappings.change(asid, (), parts)
        self._placed = (asid, iova)

    async def withdraw(self, mappings: Mappings) -> None:
        """Unmap the memory from the device, which must be stopped."""
        if self._placed is not None:
            asid, iova = self._placed
            self._placed = None
            await mappings.change(asid, (iova, iova + self._layout.readable), ())

    def plan(self, index: int, ring_format: RingFormat, kick: int, call: int) -> RingPlan:
        """The shadow ring, as the device is to be told."""
        assert self._placed is not None
        addresses = self._layout.addresses(self._placed[1], packed=ring_format.packed)
        return RingPlan(index, self._layout.num, addresses, ring_format.initial_base, kick, call)

    def queue(self, ring_format: RingFormat, fence: Callable[[], None]) -> ShadowQueue:
        """A new queue in the memory; the one before must no longer be in use."""
        assert self._placed is not None
        return ShadowQueue(self._layout, self._region.view, self._placed[1], fence, ring_format)

    def _free_address(self, mappings: Mappings, asid: int) -> int:
        """Never 0, which some devices take for no address, nor the last page, whose end mlx5_vdpa wraps to 0.

        (``map_end``, drivers/vdpa/mlx5/core/mr.c, which would map pages of others in place of ours.)
        In an address space of its own the lowest, as in QEMU; beside a guest the highest that is free.
        """
        size = self._layout.size
        lowest = -(-max(self._iova_range.first, PAGE) // PAGE) * PAGE
        top = (min(self._iova_range.last, 2**64 - PAGE - 1) + 1) // PAGE * PAGE
        iova = top - size
        if asid != GUEST_ASID:
            iova = min(iova, lowest)
        for entry in reversed(mappings.mapped(asid)):
            if entry.iova + entry.size <= iova:
                break
            iova = min(iova, entry.iova // PAGE * PAGE - size)
        if iova < lowest:
            raise DeviceError(
                "VHOST_IOTLB_UPDATE", 28, "no room for the shadow queue in the device's addresses"
            )
        return iova
