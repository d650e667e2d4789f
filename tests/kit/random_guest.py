"""What random guests put into their control queue: chains with mistakes in bytes, descriptors and ring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.core.address_space import AddressSpace
from cvqd.wire.packed_ring import PackedBase, PackedRing, available_flags, used_flags
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.split_ring import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, DESCRIPTOR, SplitRing
from cvqd.wire.vhost_vdpa import Access
from kit.mutated_chains import BUFFERS, BYTES, CHAIN, EDGES, HIGH, LOW, READ_ONLY, SIZE, TABLES, TEMPLATES

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

#: split and packed, with and without their additions
FORMATS: Final = (
    RingFormat(),
    RingFormat(indirect=True),
    RingFormat(indirect=True, event_index=True),
    RingFormat(packed=True),
    RingFormat(packed=True, indirect=True, event_index=True),
)


class RandomGuest:
    """A ring and the memory that it points into; ``offer`` is one case."""

    def __init__(self, roll: random.Random) -> None:
        self._roll = roll
        self._bytes = memoryview(bytearray(2 * SIZE))
        #: as the daemon sees it: the guest's own two regions, and one that may only be read
        self.memory = AddressSpace()
        self.memory.add(LOW, self._bytes[:SIZE])
        self.memory.add(HIGH, self._bytes[SIZE:])
        self.memory.add(READ_ONLY, memoryview(bytearray(SIZE)), Access.READ)

    def start(self) -> None:
        """A ring that begins anew."""
        self.num = 1 << self._roll.randrange(7)
        self.format = self._roll.choice(FORMATS)
        sizes = self.format.sizes(self.num)
        starts = (0, 0x1000, 0x2000)
        self._bytes[:0x3000] = bytes(0x3000)
        parts = [self._bytes[start : start + size] for start, size in zip(starts, sizes, strict=True)]
        self.ring = self.format.open(self.num, parts)
        self._position, self._wrap, self._room = 0, True, self.num
        self._available = 0

    def goes_on(self, base: PackedBase) -> None:
        """Put what comes next of a packed ring where the daemon looks next: it is the only place."""
        self._position, self._wrap = base.available, base.available_wrap
        self._room = self.num

    def offer(self) -> None:
        """One case: put a chain in the ring and publish it."""
        roll = self._roll
        command = roll.choice(TEMPLATES)
        if roll.random() < 0.4:
            command = roll.choice(BYTES)(roll, command)
        address = BUFFERS + roll.randrange(0x1000) if roll.random() < 0.9 else HIGH - roll.randrange(1, 600)
        self._write(address, command)
        cut = roll.randrange(len(command) + 1) if self.num > 2 else 0
        parts = [(address, cut), (address + cut, len(command) - cut)]
        chain = [(at, length, 0) for at, length in parts if length]
        chain.append((address + len(command), roll.choice((1, 1, 1, 2, 64, 300)), DESC_WRITE))
        self._describe(chain)
        if roll.random() < 0.01:
            roll.choice(_RING)(self)

    def _describe(self, chain: list[tuple[int, int, int]]) -> None:
        roll, num = self._roll, self.num
        if self.format.indirect and roll.random() < 0.5:
            chain = [(*self._tabulate(chain), DESC_INDIRECT)]
        if isinstance(self.ring, PackedRing):
            self._describe_packed(self.ring, chain)
            return
        first = roll.randrange(num)
        slots = [(first + place) % num for place in range(len(chain))]
        entries = [
            [at, length, flags | DESC_NEXT, slots[(place + 1) % len(chain)]]
            for place, (at, length, flags) in enumerate(chain)
        ]
        entries[-1][2] &= ~DESC_NEXT
        if roll.random() < 0.5:
            roll.choice(CHAIN)(roll, entries, num)
        for slot, (at, length, flags, following) in zip(slots, entries, strict=False):
            DESCRIPTOR.pack_into(self._bytes, 16 * slot, at & 2**64 - 1, length & 2**32 - 1, flags, following)
        self.publish(first)

    def _tabulate(self, chain: list[tuple[int, int, int]]) -> tuple[int, int]:
        """Address and bytes of an indirect table, each mostly right."""
        roll, packed = self._roll, self.format.packed
        entries = [
            [at, length, flags | (0 if packed or place == len(chain) else DESC_NEXT), place]
            for place, (at, length, flags) in enumerate(chain, 1)
        ]
        if roll.random() < 0.4:
            roll.choice(CHAIN)(roll, entries, len(entries))
        address = TABLES + 64 * roll.randrange(0x30)
        for place, (at, length, flags, following) in enumerate(entries):
            last = (following, flags) if packed else (flags, following)
            row = (at & 2**64 - 1, length & 2**32 - 1, *last)
            DESCRIPTOR.pack_into(self._bytes, address - LOW + 16 * place, *row)
        size = 16 * len(entries)
        return address, size if roll.random() < 0.95 else roll.choice((*EDGES, 24, 16 * 257, 16 * 250))

    def _describe_packed(self, ring: PackedRing, chain: list[tuple[int, int, int]]) -> None:
        roll, num = self._roll, self.num
        if len(chain) > self._room:
            return
        entries = [[at, length, flags | DESC_NEXT, roll.getrandbits(16)] for at, length, flags in chain]
        entries[-1][2] &= ~DESC_NEXT
        if roll.random() < 0.4:
            roll.choice(CHAIN)(roll, entries, num)
        first = self._position
        for place, (at, length, said, id_) in enumerate(entries):
            ring.put_body(self._position, at & 2**64 - 1, length & 2**32 - 1, id_ & 0xFFFF)
            flags = said & ~used_flags(wrap=True) | available_flags(wrap=self._wrap)
            if place:
                ring.put_flags(self._position, flags)
            else:
                first_flags = flags
            self._position = (self._position + 1) % num
            self._wrap ^= not self._position
        self._room -= len(entries)
        ring.put_flags(first, first_flags)

    def publish(self, head: int) -> None:
        """Make the chain that begins at ``head`` of a split ring available."""
        assert isinstance(self.ring, SplitRing)
        self.ring.put_available(self._available, head)
        self._available = (self._available + 1) & 0xFFFF
        self.ring.available_index = self._available

    def scribble(self) -> None:
        """Change descriptors that the daemon has read already, or is about to."""
        at = self._roll.randrange(16 * self.num)
        self._bytes[at] = self._roll.randrange(256)

    def _write(self, address: int, data: bytes) -> None:
        at = address - LOW
        self._bytes[at : at + len(data)] = data


# changes of the ring itself


def _bad_head(guest: RandomGuest) -> None:
    if isinstance(guest.ring, PackedRing):
        for position in range(guest.num):
            guest.ring.put_flags(position, DESC_NEXT | available_flags(wrap=guest._wrap))
        return
    guest.publish(guest._roll.choice((guest.num, 0xFFFF, guest._roll.getrandbits(16))))


def _same_again(guest: RandomGuest) -> None:
    if isinstance(guest.ring, PackedRing):
        guest.ring.put_flags(guest._position, available_flags(wrap=guest._wrap))
        return
    guest.publish(guest._roll.randrange(guest.num))


def _jump(guest: RandomGuest) -> None:
    if isinstance(guest.ring, PackedRing):
        guest.ring.put_flags(guest._roll.randrange(guest.num), guest._roll.getrandbits(16))
        return
    guest.ring.available_index = guest._roll.getrandbits(16)


def _noise_everywhere(guest: RandomGuest) -> None:
    size = 0x1000 if guest._roll.random() < 0.5 else 0x3000
    if isinstance(guest.ring, PackedRing):
        guest._bytes[:size] = guest._roll.randbytes(size)
        return
    used = guest.ring.used_index
    guest._bytes[:size] = guest._roll.randbytes(size)
    # the daemon never reads it back, only these tests do
    guest.ring.used_index = used


_RING: Final[list[Callable[[RandomGuest], None]]] = [_bad_head, _same_again, _jump, _noise_everywhere]
