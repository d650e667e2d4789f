"""One ring as the guest laid it out, in the format negotiated for all its rings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cvqd.core.queues.packed_answers import PackedAnswers, resume
from cvqd.errors import GuestError
from cvqd.wire.packed_ring import INITIAL_BASE, WRAP, PackedRing
from cvqd.wire.vhost_vdpa import Access

if TYPE_CHECKING:
    from cvqd.core.address_space import AddressSpace
    from cvqd.wire.ring_format import AnyRing, RingFormat
    from cvqd.wire.split_ring import RingAddresses


@dataclass(frozen=True, slots=True)
class GuestRing:
    """Guest-physical addresses, ``base`` as in SET_VRING_BASE, borrowed descriptors (-1 for none)."""

    index: int
    num: int
    addresses: RingAddresses
    base: int
    kick: int
    call: int

    def open(self, memory: AddressSpace, ring_format: RingFormat) -> AnyRing:
        """The live ring; GuestError if one of its parts is not in a single region."""
        return open_ring(memory, ring_format, self.num, self.addresses)

    def settled(self, memory: AddressSpace, ring_format: RingFormat) -> GuestRing:
        """The ring with the base that its front-end means.

        For every fresh ring ``arch/um/drivers/virtio_uml.c`` sends 0, and DPDK's ``virtio_user_dev.c``
        only the driver's wrap counter.  Taken literally for a packed ring, the first means that an even
        lap is about to begin, the second an odd lap with the whole ring in flight.  A ring that was never
        used can be in neither of these states.
        """
        if self.base not in (0, WRAP) or not ring_format.packed:
            return self
        ring = self._opened(memory, ring_format)
        if not isinstance(ring, PackedRing) or ring.was_round:
            return self
        return replace(self, base=INITIAL_BASE)

    def resumed(self, memory: AddressSpace, ring_format: RingFormat, noted: bytes = b"") -> GuestRing:
        """The ring with the base at which its last answer left it.

        Between runs nothing is in flight, and a vDPA device takes one index for both ends of a split ring
        (``vdpa_vq_state_split``), so the ring continues at its used index, whatever the front-end says.
        After a crash of ours the front-end cannot know (QEMU's ``hw/virtio/vhost.c`` then takes the used
        index, others the base of the last GET_VRING_BASE), and cloud-hypervisor always sends the driver's
        own index, even at the first start (``vu_common_ctrl.rs``).  What was popped but not answered is
        fetched again.

        A packed ring has no used index; ``noted`` are the last answers on a packed control queue.
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
        """Whether the ring was never used; valid only for a ``settled`` ring."""
        if self.base != ring_format.initial_base:
            return False
        return ring_format.packed or not used_index(memory, self.num, self.addresses, ring_format)


def open_ring(memory: AddressSpace, ring_format: RingFormat, num: int, addresses: RingAddresses) -> AnyRing:
    """A live ring in guest memory; GuestError if one of its parts is not in a single region."""
    parts = zip(addresses, ring_format.sizes(num), strict=True)
    return ring_format.open(num, [memory.contiguous(start, size, Access.READ_WRITE) for start, size in parts])


def used_index(memory: AddressSpace, num: int, addresses: RingAddresses, ring_format: RingFormat) -> int:
    """The used index that a split ring keeps in memory; 0 if the ring is not mapped, or packed."""
    try:
        ring = open_ring(memory, ring_format, num, addresses)
    except GuestError:
        return 0
    return 0 if isinstance(ring, PackedRing) else ring.used_index
