"""Valid commands, and random changes of their bytes and of a chain's descriptors."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from cvqd.wire.net_control import (
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
from cvqd.wire.split_ring import DESC_INDIRECT, DESC_NEXT, DESC_WRITE
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

MAX_COMMAND: Final = 512
#: where the shadow queue lies, which no guest may reach
SHADOW_IOVA: Final = 0xFFFF_0000_0000

#: guest memory: rings, then buffers that lie across two regions; and one region that may only be read
LOW, HIGH, READ_ONLY = 0x1_0000, 0x1_8000, 0x9_0000
SIZE: Final = 0x8000
BUFFERS: Final = 0x1_4000
#: between the ring and the buffers
TABLES: Final = 0x1_3000

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


BYTES: Final[list[Callable[[random.Random, bytes], bytes]]] = [
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


CHAIN: Final[list[Callable[[random.Random, Entries, int], None]]] = [
    _address,
    _length,
    _flags,
    _next,
    _reverse,
    _no_answer,
    _drop_descriptor,
]
