"""A driver's ring for tests: honest, by ``core.queues.driver_ring``, or as hostile as a test wants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.core.queues.driver_ring import DriverRing, driver_ring
from cvqd.core.queues.ring_error import RingError
from cvqd.core.queues.split_driver_ring import SplitDriverRing
from cvqd.host.shared_memory import full_fence
from cvqd.wire.packed_ring import PackedRing
from cvqd.wire.split_ring import DESC_INDIRECT, DESC_NEXT, DESCRIPTOR, SplitRing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cvqd.wire.ring_format import AnyRing, RingFormat

#: descriptors of an indirect table; the device is told how many of them are used
_TABLE: Final = 64


class Table(NamedTuple):
    """Memory for one indirect table, as the device knows it and as we do."""

    address: int
    view: memoryview


class _ForgivingSplitRing(SplitDriverRing):
    """Takes back what it never offered, and offers what it was never given."""

    def offer_head(self, head: int) -> None:
        """Put any number into the available ring."""
        self._ring.put_available(self._next_available, head)
        self._next_available = (self._next_available + 1) & 0xFFFF

    def take(self) -> tuple[int, int] | None:
        """As an honest one, or what stands in the used element."""
        try:
            return super().take()
        except RingError as error:
            if error.fatal:
                raise
            return self._ring.used_element(self._next_used - 1)

    def skip_to(self, index: int) -> None:
        """Go on as a ring that has been used ``index`` times."""
        self._next_available = self._published = self._next_used = self._told = index
        self._ring.available_index = self._ring.used_index = index


class PlayedRing:
    """The driver's side of ``ring`` with the format's options in use; ``table`` allocates bytes.

    With INDIRECT_DESC every buffer of more than one part goes into a table, as Linux does
    (``drivers/virtio/virtio_ring.c``).
    """

    def __init__(self, ring: AnyRing, ring_format: RingFormat, table: Callable[[int], Table]) -> None:
        self.ring: Final = ring
        self.format: Final = ring_format
        self._allocate = table
        self._tables: dict[int, Table] = {}
        self._spare: list[Table] = []
        self._forgiving: _ForgivingSplitRing | None = None
        self._driver: DriverRing
        if isinstance(ring, SplitRing):
            self._driver = self._forgiving = _ForgivingSplitRing(
                ring, full_fence, event_index=ring_format.event_index
            )
        else:
            self._driver = driver_ring(ring, full_fence, event_index=ring_format.event_index)

    @property
    def free(self) -> int:
        """Descriptors that no buffer uses."""
        return self._driver.free

    @property
    def base(self) -> int:
        """For SET_VRING_BASE."""
        return self._driver.base

    def add(self, parts: Sequence[tuple[int, int, int]]) -> int:
        """Offer a buffer and publish it; its id.  IndexError when too few descriptors are free."""
        if self.format.indirect and 1 < len(parts) <= _TABLE and self._driver.free:
            table = self._spare.pop() if self._spare else self._allocate(_TABLE * DESCRIPTOR.size)
            data = self._table(parts)
            table.view[: len(data)] = data
            id_ = self._driver.offer([(table.address, len(data), DESC_INDIRECT)])
            self._tables[id_] = table
        else:
            id_ = self._driver.offer(parts)
        self._driver.publish()
        return id_

    def _table(self, parts: Sequence[tuple[int, int, int]]) -> bytes:
        packed = isinstance(self.ring, PackedRing)
        entries = []
        for place, (address, length, flags) in enumerate(parts, 1):
            more = place < len(parts) and not packed
            entries.append(
                DESCRIPTOR.pack(
                    *(
                        (address, length, 0, flags)
                        if packed
                        else (address, length, flags | (DESC_NEXT if more else 0), place if more else 0)
                    )
                )
            )
        return b"".join(entries)

    def publish_head(self, head: int) -> None:
        """Make ``head`` (u16) of a split ring available, whatever it is."""
        assert self._forgiving is not None, "a packed ring has no heads"
        self._forgiving.offer_head(head)
        self._forgiving.publish()

    def skip_to(self, index: int) -> None:
        """Let a split ring look as if it had been used ``index`` times."""
        assert self._forgiving is not None, "a packed ring has no index"
        self._forgiving.skip_to(index)

    def kick_wanted(self) -> bool:
        """Whether an honest driver would kick now."""
        return self._driver.kick_wanted()

    def take(self) -> tuple[int, int] | None:
        """Id and bytes written of the next buffer given back; None asks for a call with the next."""
        returned = self._driver.take()
        if returned is not None and (table := self._tables.pop(returned[0], None)) is not None:
            self._spare.append(table)
        return returned
