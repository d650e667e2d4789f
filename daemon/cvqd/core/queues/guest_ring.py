"""One ring as a guest laid it out, in the format that it negotiated for all its rings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cvqd.core.queues.packed_answers import PackedAnswers, resume
from cvqd.errors import GuestError
from cvqd.wire.packed_ring import DESC_USED, INITIAL_BASE, PackedRing
from cvqd.wire.vhost_vdpa import Access

if TYPE_CHECKING:
    from cvqd.core.address_space import AddressSpace
    from cvqd.wire.ring_format import AnyRing, RingFormat
    from cvqd.wire.split_ring import RingAddresses


@dataclass(frozen=True, slots=True)
class GuestRing:
    """Guest-physical addresses, ``base`` as SET_VRING_BASE says it, lent descriptors (-1 for none)."""

    index: int
    num: int
    addresses: RingAddresses
    base: int
    kick: int
    call: int

    def open(self, memory: AddressSpace, ring_format: RingFormat) -> AnyRing:
        """The ring, ready to be read; GuestError if a part is not in one region."""
        return open_ring(memory, ring_format, self.num, self.addresses)

    def settled(self, memory: AddressSpace, ring_format: RingFormat) -> GuestRing:
        """The ring with the base that its front-end means.

        ``arch/um/drivers/virtio_uml.c`` sends 0 for every ring that begins anew.  For a packed ring that
        says: about to begin an even lap; and then the lap before has left a USED bit in the first
        descriptor.  A ring without it was never round.
        """
        if self.base or not ring_format.packed:
            return self
        ring = self._opened(memory, ring_format)
        if not isinstance(ring, PackedRing) or ring.flags(0) & DESC_USED:
            return self
        return replace(self, base=INITIAL_BASE)

    def resumed(self, memory: AddressSpace, ring_format: RingFormat, noted: bytes) -> GuestRing:
        """The control queue's ring, where its last answer left it; ``noted`` are the last of a packed one.

        Between runs each popped command was answered, so the used index is where to go on, whatever its
        front-end remembers: after a crash of ours it cannot know (QEMU's ``hw/virtio/vhost.c`` takes the
        used index then, other front-ends the base of the last GET_VRING_BASE).  What was popped and not
        answered is fetched again.
        """
        if ring_format.packed:
            last = PackedAnswers.decode(noted)
            ring = None if last is None else self._opened(memory, ring_format)
            base = resume(ring, last) if last is not None and isinstance(ring, PackedRing) else None
            return self if base is None else replace(self, base=base)
        return replace(self, base=used_index(memory, self.num, self.addresses, ring_format))

    def _opened(self, memory: AddressSpace, ring_format: RingFormat) -> AnyRing | None:
        try:
            return self.open(memory, ring_format)
        except GuestError:
            return None

    def initial(self, memory: AddressSpace, ring_format: RingFormat) -> bool:
        """Whether the ring was never used; asked of a ``settled`` one."""
        if self.base != ring_format.initial_base:
            return False
        return ring_format.packed or not used_index(memory, self.num, self.addresses, ring_format)


def open_ring(memory: AddressSpace, ring_format: RingFormat, num: int, addresses: RingAddresses) -> AnyRing:
    """A ring in guest memory; GuestError if a part is not in one region."""
    parts = zip(addresses, ring_format.sizes(num), strict=True)
    return ring_format.open(num, [memory.contiguous(start, size, Access.READ_WRITE) for start, size in parts])


def used_index(memory: AddressSpace, num: int, addresses: RingAddresses, ring_format: RingFormat) -> int:
    """The used index that a split ring keeps in memory; 0 for one that is not there, or packed."""
    try:
        ring = open_ring(memory, ring_format, num, addresses)
    except GuestError:
        return 0
    return 0 if isinstance(ring, PackedRing) else ring.used_index
