"""Memory that a driver gives a device: sealed, shared, and mapped at addresses of its own."""

from __future__ import annotations

from typing import Final

from cvqd.host import shared_memory
from cvqd.wire.vhost_vdpa import Access, Map


class Arena:
    """``size`` bytes of sealed shared memory, meant to appear at ``iova``; ``allocate`` never frees."""

    def __init__(self, size: int = 1 << 20, iova: int = 0x10_0000) -> None:
        self.region: Final = shared_memory.create("arena", size)
        self.size: Final = size
        self.iova: Final = iova
        self._next = 0

    def allocate(self, size: int, align: int = 16) -> int:
        """I/O virtual address of fresh zeroed bytes; MemoryError when the arena is full."""
        start = -(-self._next // align) * align
        if start + size > self.size:
            raise MemoryError(f"no {size} bytes left of {self.size}")
        self._next = start + size
        return self.iova + start

    def view(self, iova: int, length: int) -> memoryview:
        """Those bytes, writable."""
        start = iova - self.iova
        return self.region.view[start : start + length]

    def put(self, data: bytes) -> int:
        """Address of fresh bytes that hold ``data``."""
        iova = self.allocate(len(data))
        self.view(iova, len(data))[:] = data
        return iova

    def mapping(self, access: Access = Access.READ_WRITE) -> Map:
        """The message that shows all of it to the device."""
        return Map(self.iova, self.size, self.region, 0, access)
