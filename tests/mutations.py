"""Random guests at full speed: queue, codec, policy, relay and ledger without a socket or a clock.

A *case* is one chain that a guest offers, from a good command by random
changes of its bytes, its descriptors or the ring itself.  Cases come in blocks;
a block is made from its seed alone, so one that fails can be run by itself.

The device here obeys with the simulator's own judgement.  So three parties
check each other: what the policy lets through the device must accept, and
whatever was acknowledged both must have made the same state of.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from typing import TYPE_CHECKING, Final

from cvqd.core.address_space import AddressSpace
from cvqd.core.guest_queue import Chain, GuestQueue
from cvqd.core.ledger import Ledger
from cvqd.core.policy import HashLimits, Policy
from cvqd.core.shadow_queue import ShadowLayout, ShadowQueue
from cvqd.core.tracked import TrackedState
from cvqd.journal import Journal
from cvqd.relay import Relay
from cvqd.simulator.control import HASH_TYPES, MAX_KEY, MAX_TABLE, Control
from cvqd.simulator.spec import SimulatorSpec
from cvqd.wire.net_control import (
    ERR,
    OK,
    AnnounceAck,
    Coalescing,
    CoalRxSet,
    CoalTxSet,
    CoalVqGet,
    CoalVqSet,
    GuestOffloadsSet,
    HashConfig,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxMode,
    RxModeSet,
    StatsGet,
    StatsQuery,
    StatsRequest,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.packed_ring import PackedBase, PackedRing, available_flags, used_flags
from cvqd.wire.ring_format import AnyRing, RingFormat
from cvqd.wire.split_ring import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, DESCRIPTOR, SplitRing
from cvqd.wire.vhost_vdpa import Access
from cvqd.wire.virtio import Feature
from ring_memory import no_fence

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK: Final = 1000
DEADLINE: Final = 1.0
MAX_COMMAND: Final = 512
MAX_ANSWER: Final = 1024
SHADOW_IOVA: Final = 0xFFFF_0000_0000

#: guest memory: rings, then buffers that lie across two regions; and one region that may only be read
LOW, HIGH, READ_ONLY = 0x1_0000, 0x1_8000, 0x9_0000
SIZE: Final = 0x8000
BUFFERS: Final = 0x1_4000
#: between the ring and the buffers
TABLES: Final = 0x1_3000

SPEC: Final = SimulatorSpec(max_queue_pairs=4)
FEATURES: Final = SPEC.offered_features & ~Feature.ACCESS_PLATFORM.mask
POLICY: Final = Policy(
    FEATURES, SPEC.max_queue_pairs, hashing=HashLimits(MAX_KEY, MAX_TABLE, HASH_TYPES), max_answer=MAX_ANSWER
)
TEMPLATES: Final = [
    command.encode()
    for command in (
        MacAddrSet(bytes.fromhex("525400000001")),
        MacAddrSet(bytes.fromhex("525400000002")),
        *(RxModeSet(mode, on) for mode in RxMode for on in (0, 1)),
        MacTableSet((), ()),
        MacTableSet((b"\2\0\0\0\0\1",) * 3, (b"\3\0\0\0\0\1",) * 40),
        VlanAdd(0),
        VlanAdd(4095),
        VlanAdd(4096),
        VlanDel(4095),
        VqPairsSet(0),
        VqPairsSet(1),
        VqPairsSet(4),
        VqPairsSet(5),
        AnnounceAck(),
        RssConfig(0x1FF, 3, 0, (0, 1, 2, 3), 4, bytes(range(40))),
        RssConfig(0x3F, 0, 3, (2,), 1, b"key"),
        RssConfig(0, 127, 0, (1,) * 128, 4, b""),
        RssConfig(0, 2, 0, (1,) * 3, 4, b""),
        RssConfig(1, 1, 4, (3, 4), 5, b""),
        HashConfig(0x1FF, bytes(40)),
        HashConfig(0x200, bytes(41)),
        GuestOffloadsSet(0),
        GuestOffloadsSet(Feature.GUEST_CSUM.mask),
        GuestOffloadsSet(Feature.GUEST_USO4.mask),
        CoalTxSet(Coalescing(3, 4)),
        CoalRxSet(Coalescing(5, 6)),
        CoalVqSet(0, Coalescing(7, 8)),
        CoalVqSet(7, Coalescing(9, 10)),
        CoalVqSet(8, Coalescing(9, 10)),
        CoalVqGet(7),
        CoalVqGet(8),
        StatsQuery(),
        StatsGet((StatsRequest(0, 0xF), StatsRequest(7, 1 << 16), StatsRequest(8, 1 << 32))),
        StatsGet((StatsRequest(9, 1),)),
        StatsGet((StatsRequest(0, 0xF),) * 20),
    )
]
ANNOUNCE: Final = AnnounceAck().encode()
#: split and packed, with and without their additions
FORMATS: Final = (
    RingFormat(),
    RingFormat(indirect=True),
    RingFormat(indirect=True, event_index=True),
    RingFormat(packed=True),
    RingFormat(packed=True, indirect=True, event_index=True),
)
#: lengths and addresses at which mistakes live
EDGES: Final = (0, 1, 2, 0x7FFF_FFFF, 0xFFFF_FFFF)
ADDRESSES: Final = (
    0,
    LOW - 1,
    LOW,
    HIGH - 1,
    HIGH + SIZE - 1,
    HIGH + SIZE,
    READ_ONLY,
    READ_ONLY + SIZE - 1,
    SHADOW_IOVA,
    2**64 - 1,
    2**63,
)


class Silent:
    """A log that nobody reads; the event's fields are made all the same."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()

    def emit(self, name: str, /, *, mono_ns: int | None = None, **_: object) -> None:
        del mono_ns
        self.events[name] += 1

    def enabled(self, _: str, /) -> bool:
        return True


class RecordingQueue(GuestQueue):
    """Remembers what it popped and what was given back."""

    def __init__(self, ring: AnyRing, memory: AddressSpace, ring_format: RingFormat) -> None:
        super().__init__(
            ring, memory, no_fence, indirect=ring_format.indirect, event_index=ring_format.event_index
        )
        self._live = ring
        self.popped: list[int] = []
        self.pushed: list[int] = []

    def pop(self) -> Chain | None:
        chain = super().pop()
        if chain is not None:
            self.popped.append(chain.head)
        return chain

    def push(self, chain: Chain, written: int) -> None:
        self.pushed.append(chain.head)
        assert 0 <= written <= min(chain.writable_length, MAX_ANSWER)
        super().push(chain, written)
        # at once: the guest may have named the ring itself as the place for a later answer
        if isinstance(self._live, SplitRing):
            assert self._live.used_element(self._ring._next_used - 1) == (chain.head, written)


class Device:
    """Obeys the shadow queue, or in a block with ``faults`` sometimes does not."""

    def __init__(
        self,
        roll: random.Random,
        memory: memoryview,
        layout: ShadowLayout,
        ring_format: RingFormat,
        *,
        faults: bool,
    ) -> None:
        self.control = Control(SPEC)
        self.control.negotiated(SPEC.offered_features)
        self.executed = 0
        self._roll = roll
        self._faults = faults
        space = AddressSpace()
        space.add(SHADOW_IOVA, memory[: layout.readable], Access.READ)
        space.add(SHADOW_IOVA + layout.readable, memory[layout.readable :], Access.READ_WRITE)
        addresses = layout.addresses(SHADOW_IOVA, packed=ring_format.packed)
        sizes = ring_format.sizes(layout.num)
        parts = (space.contiguous(at, size, Access.READ) for at, size in zip(addresses, sizes, strict=True))
        self._queue = GuestQueue(
            ring_format.open(layout.num, parts), space, no_fence, event_index=ring_format.event_index
        )
        self._packed = ring_format.packed
        self._late: list[tuple[Chain, bytes]] = []

    def turn(self) -> None:
        """Serve everything that was submitted."""
        queue = self._queue
        if self._late and self._roll.random() < 0.3:
            self._give(*self._late.pop(self._roll.randrange(len(self._late))))
        while (chain := queue.pop()) is not None:
            assert chain.fault is None, chain.fault
            if self._roll.random() < 0.02:
                # it may always say no; then nothing has changed
                self._give(chain, bytes((ERR,)))
                continue
            command = chain.read(MAX_COMMAND)
            answer = self.control.answer(command)
            # whether an announcement is pending is the device's to know
            assert answer[0] == OK or command == ANNOUNCE, "allowed by the policy, not by the device"
            self.executed += 1
            fault = self._roll.random() if self._faults else 1.0
            if fault < 0.03:
                self._late.append((chain, answer))
            elif fault < 0.04:
                queue.push(chain, 0)
            elif fault < 0.05:
                self._give(chain, answer)
                if not self._packed:
                    # nobody can follow a packed ring in which an id comes twice
                    queue.push(chain, 1)
            else:
                self._give(chain, answer)
        queue.publish()

    def _give(self, chain: Chain, answer: bytes) -> None:
        self._queue.push(chain, chain.write(answer))


class World:
    """One block's guest, daemon and device."""

    def __init__(self, seed: str) -> None:
        self.roll = random.Random(seed)
        self.log = Silent()
        self.journal = Journal(self.log)
        self.now = 0.0
        self.outcomes: Counter[str] = Counter()
        self._bytes = memoryview(bytearray(2 * SIZE))
        self._memory = AddressSpace()
        self._memory.add(LOW, self._bytes[:SIZE])
        self._memory.add(HIGH, self._bytes[SIZE:])
        self._memory.add(READ_ONLY, memoryview(bytearray(SIZE)), Access.READ)
        self._layout = ShadowLayout(32, MAX_COMMAND, MAX_ANSWER)
        self._shadow_memory = memoryview(bytearray(self._layout.size))
        self._faults = self.roll.random() < 0.5
        self.start()

    def start(self) -> None:
        """A ring that begins anew, and a daemon and a device that were reset."""
        self.num = 1 << self.roll.randrange(7)
        self.format = self.roll.choice(FORMATS)
        sizes = self.format.sizes(self.num)
        starts = (0, 0x1000, 0x2000)
        self._bytes[:0x3000] = bytes(0x3000)
        parts = [self._bytes[start : start + size] for start, size in zip(starts, sizes, strict=True)]
        self.ring = self.format.open(self.num, parts)
        self.queue = RecordingQueue(self.ring, self._memory, self.format)
        self._position, self._wrap, self._room = 0, True, self.num
        self._available = 0
        self._used = 0
        self.ledger = Ledger(TrackedState.after_reset(SPEC.mac, FEATURES))
        shadow = ShadowQueue(self._layout, self._shadow_memory, SHADOW_IOVA, no_fence, self.format)
        self.device = Device(self.roll, self._shadow_memory, self._layout, self.format, faults=self._faults)
        self.kicked = False
        self.relay = Relay(
            guest=self.queue,
            shadow=shadow,
            ledger=self.ledger,
            policy=POLICY,
            journal=self.journal,
            deadline=DEADLINE,
            max_command=MAX_COMMAND,
            kick_device=self._kick,
            call_guest=lambda: None,
        )

    def _kick(self) -> None:
        self.kicked = True

    # what the guest does

    def offer(self) -> None:
        """One case: put a chain in the ring and publish it."""
        roll = self.roll
        command = roll.choice(TEMPLATES)
        if roll.random() < 0.4:
            command = roll.choice(_BYTES)(roll, command)
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
        roll, num = self.roll, self.num
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
            roll.choice(_CHAIN)(roll, entries, num)
        for slot, (at, length, flags, following) in zip(slots, entries, strict=False):
            DESCRIPTOR.pack_into(self._bytes, 16 * slot, at & 2**64 - 1, length & 2**32 - 1, flags, following)
        self.publish(first)

    def _tabulate(self, chain: list[tuple[int, int, int]]) -> tuple[int, int]:
        """Address and bytes of an indirect table, each mostly right."""
        roll, packed = self.roll, self.format.packed
        entries = [
            [at, length, flags | (0 if packed or place == len(chain) else DESC_NEXT), place]
            for place, (at, length, flags) in enumerate(chain, 1)
        ]
        if roll.random() < 0.4:
            roll.choice(_CHAIN)(roll, entries, len(entries))
        address = TABLES + 64 * roll.randrange(0x30)
        for place, (at, length, flags, following) in enumerate(entries):
            last = (following, flags) if packed else (flags, following)
            row = (at & 2**64 - 1, length & 2**32 - 1, *last)
            DESCRIPTOR.pack_into(self._bytes, address - LOW + 16 * place, *row)
        size = 16 * len(entries)
        return address, size if roll.random() < 0.95 else roll.choice((*EDGES, 24, 16 * 257, 16 * 250))

    def _describe_packed(self, ring: PackedRing, chain: list[tuple[int, int, int]]) -> None:
        roll, num = self.roll, self.num
        if len(chain) > self._room:
            return
        entries = [[at, length, flags | DESC_NEXT, roll.getrandbits(16)] for at, length, flags in chain]
        entries[-1][2] &= ~DESC_NEXT
        if roll.random() < 0.4:
            roll.choice(_CHAIN)(roll, entries, num)
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
        assert isinstance(self.ring, SplitRing)
        self.ring.put_available(self._available, head)
        self._available = (self._available + 1) & 0xFFFF
        self.ring.available_index = self._available

    def scribble(self) -> None:
        """Change descriptors that the daemon has read already, or is about to."""
        at = self.roll.randrange(16 * self.num)
        self._bytes[at] = self.roll.randrange(256)

    def _write(self, address: int, data: bytes) -> None:
        at = address - LOW
        self._bytes[at : at + len(data)] = data

    # what is checked

    def settle(self) -> None:
        """Let daemon and device work until every chain is back, and compare."""
        for _ in range(4 * self.num + 8):
            more = self.relay.step(self.now)
            if self.roll.random() < 0.05:
                self.scribble()
            if self.kicked:
                self.kicked = False
                self.device.turn()
            elif not more:
                if not self.relay._open:
                    break
                # nothing rings any more: what is open waits for its deadline
                self.now += DEADLINE
        else:
            raise AssertionError("the relay does not come to rest")
        self.journal.tell()
        self._check_used()
        if self.relay._guest_broken:
            self.outcomes["broken"] += 1
            self._compare()
            self.start()
        elif self.format.packed:
            # where the daemon looks next is the only place for what comes next
            self._position, self._wrap, used, used_wrap = PackedBase.decode(self.queue.base)
            assert (used, used_wrap) == (self._position, self._wrap), "nothing is left with the daemon"
            self._room = self.num

    def _check_used(self) -> None:
        queue = self.queue
        assert queue.pushed == queue.popped, "each chain once, in order"
        if self.format.packed:
            self.outcomes["given back"] += len(queue.pushed)
            self.outcomes["packed"] += len(queue.pushed)
            queue.popped.clear()
            queue.pushed.clear()
            return
        assert queue._ring._next_used == (self._used + len(queue.pushed)) & 0xFFFF
        self.outcomes["given back"] += len(queue.pushed)
        self._used = queue._ring._next_used
        queue.popped.clear()
        queue.pushed.clear()

    def _compare(self) -> None:
        if self._faults:
            return
        tracked, device = self.ledger.state, self.device.control.state
        assert tracked.mac == device.mac
        assert tracked.pairs == device.pairs
        modes = sum(1 << mode for mode in device.modes)
        if tracked.widened:
            # it refused the tables: they are the guest's all the same, and every frame is let in
            assert modes == tracked.rx | 1 << RxMode.PROMISC
        else:
            assert modes == tracked.rx
            assert (set(tracked.unicast), set(tracked.multicast)) == (device.unicast, device.multicast)
        assert set(tracked.vlan_ids()) == device.vlans
        assert tracked.hashing == (device.rss or device.report)
        assert tracked.offloads == device.offloads
        queues = range(2 * SPEC.max_queue_pairs)
        assert [tracked.coalescing.of(queue) for queue in queues] == [*map(device.coalescing, queues)]
        assert not self.ledger.uncertain
        assert not any(outcome == "expired" for _, outcome in self.journal.answers)


def run_block(seed: int, block: int, cases: int = BLOCK) -> Counter[str]:
    """Outcomes of one block; AssertionError or whatever was raised names no case but the block."""
    world = World(f"{seed}/{block}")
    roll = world.roll
    left = cases
    while left:
        batch = min(left, roll.randrange(1, max(2, world.num)))
        for _ in range(batch):
            world.offer()
        left -= batch
        world.settle()
    world._compare()
    for (_, outcome), count in world.journal.answers.items():
        world.outcomes[outcome] += count
    world.outcomes["malformed"] += world.journal.counts["chains_malformed"]
    world.outcomes["executed by the device"] += world.device.executed
    return world.outcomes


# changes of a command's bytes


def _flip(roll: random.Random, command: bytes) -> bytes:
    at = roll.randrange(len(command))
    return command[:at] + bytes((command[at] ^ 1 << roll.randrange(8),)) + command[at + 1 :]


def _cut(roll: random.Random, command: bytes) -> bytes:
    return command[: roll.randrange(1, len(command))]


def _extend(roll: random.Random, command: bytes) -> bytes:
    return command + roll.randbytes(roll.choice((1, 2, 6, MAX_COMMAND)))


def _lie(roll: random.Random, _: bytes) -> bytes:
    claimed = (roll.choice((*EDGES, 3)), roll.choice((*EDGES, 3)))
    entries = roll.randbytes(6 * roll.randrange(6))
    return b"\x01\x00" + struct.pack("<I", claimed[0]) + entries + struct.pack("<I", claimed[1])


def _noise(roll: random.Random, _: bytes) -> bytes:
    return roll.randbytes(roll.randrange(1, 40))


def _other_class(roll: random.Random, command: bytes) -> bytes:
    return bytes((roll.randrange(12), roll.randrange(8))) + command[2:]


_BYTES: Final[list[Callable[[random.Random, bytes], bytes]]] = [
    _flip,
    _cut,
    _extend,
    _lie,
    _noise,
    _other_class,
]


# changes of a chain's descriptors

Entries = list[list[int]]


def _address(roll: random.Random, entries: Entries, _: int) -> None:
    roll.choice(entries)[0] = roll.choice((*ADDRESSES, roll.getrandbits(64), LOW + roll.randrange(2 * SIZE)))


def _length(roll: random.Random, entries: Entries, _: int) -> None:
    roll.choice(entries)[1] = roll.choice((*EDGES, roll.randrange(3 * SIZE)))


def _flags(roll: random.Random, entries: Entries, _: int) -> None:
    roll.choice(entries)[2] = roll.choice(
        (0, DESC_NEXT, DESC_WRITE, DESC_INDIRECT, 3, 5, 7, roll.getrandbits(16))
    )


def _next(roll: random.Random, entries: Entries, num: int) -> None:
    entry = roll.choice(entries)
    entry[2] |= DESC_NEXT
    entry[3] = roll.choice((roll.randrange(num), num, 0xFFFF, num - 1))


def _reverse(_: random.Random, entries: Entries, __: int) -> None:
    for this, other in zip(entries[: len(entries) // 2], reversed(entries), strict=False):
        this[:2], other[:2] = other[:2], this[:2]
        this[2], other[2] = this[2] ^ DESC_WRITE, other[2] ^ DESC_WRITE


def _no_answer(_: random.Random, entries: Entries, __: int) -> None:
    entries[-1][2] = 0


def _drop_descriptor(roll: random.Random, entries: Entries, _: int) -> None:
    if len(entries) > 1:
        del entries[roll.randrange(1, len(entries))]


_CHAIN: Final[list[Callable[[random.Random, Entries, int], None]]] = [
    _address,
    _length,
    _flags,
    _next,
    _reverse,
    _no_answer,
    _drop_descriptor,
]


# changes of the ring itself


def _bad_head(world: World) -> None:
    if isinstance(world.ring, PackedRing):
        for position in range(world.num):
            world.ring.put_flags(position, DESC_NEXT | available_flags(wrap=world._wrap))
        return
    world.publish(world.roll.choice((world.num, 0xFFFF, world.roll.getrandbits(16))))


def _same_again(world: World) -> None:
    if isinstance(world.ring, PackedRing):
        world.ring.put_flags(world._position, available_flags(wrap=world._wrap))
        return
    world.publish(world.roll.randrange(world.num))


def _jump(world: World) -> None:
    if isinstance(world.ring, PackedRing):
        world.ring.put_flags(world.roll.randrange(world.num), world.roll.getrandbits(16))
        return
    world.ring.available_index = world.roll.getrandbits(16)


def _noise_everywhere(world: World) -> None:
    size = 0x1000 if world.roll.random() < 0.5 else 0x3000
    if isinstance(world.ring, PackedRing):
        world._bytes[:size] = world.roll.randbytes(size)
        return
    used = world.ring.used_index
    world._bytes[:size] = world.roll.randbytes(size)
    # the daemon never reads it back, only this test does
    world.ring.used_index = used


_RING: Final[list[Callable[[World], None]]] = [_bad_head, _same_again, _jump, _noise_everywhere]
