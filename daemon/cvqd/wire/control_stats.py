"""Commands that ask for the device's statistics, virtio 1.3 §5.1.6.5.10, and their results.

A result is a sequence of blocks, each with a header that names its type, its
queue and its size, so that unknown blocks can be skipped.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple, Self

from cvqd.errors import GuestError
from cvqd.wire.control_frame import ACK, U64, Class, expect
from cvqd.wire.virtio import Feature

#: vq_index u16, reserved u16[3], types_bitmap u64
_REQUEST: Final = struct.Struct("<H6sQ")
#: ``struct virtio_net_stats_reply_hdr``: type u8, reserved u8, vq_index u16, reserved u16, size u16
_BLOCK: Final = struct.Struct("<BBHHH")


class StatsType(enum.IntEnum):
    """Bit numbers of ``types_bitmap``; also the ``type`` of a block."""

    RX_BASIC = 0
    RX_CSUM = 1
    RX_GSO = 2
    RX_SPEED = 3
    TX_BASIC = 16
    TX_CSUM = 17
    TX_GSO = 18
    TX_SPEED = 19
    CVQ = 32

    @property
    def mask(self) -> int:
        """The bit as a value of ``types_bitmap``."""
        return 1 << self


#: counters of each block, in order; names of ``include/uapi/linux/virtio_net.h``
COUNTERS: Final[dict[StatsType, tuple[str, ...]]] = {
    StatsType.RX_BASIC: (
        "rx_notifications",
        "rx_packets",
        "rx_bytes",
        "rx_interrupts",
        "rx_drops",
        "rx_drop_overruns",
    ),
    StatsType.RX_CSUM: ("rx_csum_valid", "rx_needs_csum", "rx_csum_none", "rx_csum_bad"),
    StatsType.RX_GSO: (
        "rx_gso_packets",
        "rx_gso_bytes",
        "rx_gso_packets_coalesced",
        "rx_gso_bytes_coalesced",
    ),
    StatsType.RX_SPEED: ("rx_ratelimit_packets", "rx_ratelimit_bytes"),
    StatsType.TX_BASIC: (
        "tx_notifications",
        "tx_packets",
        "tx_bytes",
        "tx_interrupts",
        "tx_drops",
        "tx_drop_malformed",
    ),
    StatsType.TX_CSUM: ("tx_csum_none", "tx_needs_csum"),
    StatsType.TX_GSO: (
        "tx_gso_packets",
        "tx_gso_bytes",
        "tx_gso_segments",
        "tx_gso_segments_bytes",
        "tx_gso_packets_noseg",
        "tx_gso_bytes_noseg",
    ),
    StatsType.TX_SPEED: ("tx_ratelimit_packets", "tx_ratelimit_bytes"),
    StatsType.CVQ: ("command_num", "ok_num"),
}


def block_size(kind: StatsType) -> int:
    """Bytes of a block with its header."""
    return _BLOCK.size + U64.size * len(COUNTERS[kind])


#: bytes of all blocks of one pair, and of the control queue's block
PAIR_RESULT: Final = sum(block_size(kind) for kind in StatsType if kind is not StatsType.CVQ)
CVQ_RESULT: Final = block_size(StatsType.CVQ)


class StatsRequest(NamedTuple):
    """Types of blocks wanted for one queue; ``reserved`` are the 6 bytes as sent."""

    queue: int
    types: int
    reserved: bytes = bytes(6)


class StatsBlock(NamedTuple):
    """One block of a result."""

    kind: StatsType
    queue: int
    counters: tuple[int, ...]

    def encode(self) -> bytes:
        """Header and counters, which wrap at 64 bits."""
        header = _BLOCK.pack(self.kind, 0, self.queue, 0, block_size(self.kind))
        return header + b"".join(U64.pack(value & 0xFFFF_FFFF_FFFF_FFFF) for value in self.counters)


def parse_blocks(result: bytes) -> list[StatsBlock]:
    """The complete blocks of known types in a result (the bytes after the ack)."""
    blocks, at = [], 0
    while at + _BLOCK.size <= len(result):
        kind, _, queue, _, size = _BLOCK.unpack_from(result, at)
        if size < _BLOCK.size or at + size > len(result):
            break
        if kind in StatsType.__members__.values() and size >= block_size(StatsType(kind)):
            count = len(COUNTERS[StatsType(kind)])
            counters = struct.unpack_from(f"<{count}Q", result, at + _BLOCK.size)
            blocks.append(StatsBlock(StatsType(kind), queue, counters))
        at += size
    return blocks


def renumber_blocks(result: bytes, kind: StatsType, queue: int) -> bytes:
    """The same result with ``queue`` in the header of every block of type ``kind``."""
    changed, at = bytearray(result), 0
    while at + _BLOCK.size <= len(result):
        found, reserved, _, more, size = _BLOCK.unpack_from(result, at)
        if found == kind:
            _BLOCK.pack_into(changed, at, found, reserved, queue, more, size)
        at += max(size, _BLOCK.size)
    return bytes(changed)


@dataclass(frozen=True, slots=True)
class StatsQuery:
    """Ask which types the device supports; the result is a 64-bit mask."""

    name: ClassVar[str] = "stats.query"
    feature: ClassVar[Feature] = Feature.DEVICE_STATS
    answer_length: ClassVar[int] = ACK + U64.size

    def encode(self) -> bytes:
        """Header only."""
        return bytes((Class.STATS, 0))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        expect(data, 0, cls.name)
        return cls()


@dataclass(frozen=True, slots=True)
class StatsGet:
    """Ask for blocks; the result has one for each bit of each request, in their order."""

    requests: tuple[StatsRequest, ...]

    name: ClassVar[str] = "stats.get"
    feature: ClassVar[Feature] = Feature.DEVICE_STATS

    @property
    def answer_length(self) -> int:
        """Bytes of the ack and of every known block that is asked for."""
        return ACK + sum(
            block_size(kind) for request in self.requests for kind in StatsType if request.types & kind.mask
        )

    def encode(self) -> bytes:
        """Header and requests."""
        parts = (_REQUEST.pack(each.queue, each.reserved, each.types) for each in self.requests)
        return bytes((Class.STATS, 1)) + b"".join(parts)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        if len(data) == 2 or (len(data) - 2) % _REQUEST.size:
            raise GuestError("command.length", f"stats.get takes requests of 16 bytes, not {len(data) - 2}")
        found = (_REQUEST.unpack_from(data, at) for at in range(2, len(data), _REQUEST.size))
        return cls(tuple(StatsRequest(queue, types, reserved) for queue, reserved, types in found))
