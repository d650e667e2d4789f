"""Commands for receive steering and hash reports; virtio 1.3 §5.1.6.5.5 to .7.

The fixed parts are spelt out: the C structures of these commands have tail
padding that is not on the wire (``include/uapi/linux/virtio_net.h``).
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from cvqd.errors import GuestError
from cvqd.wire.control_frame import ACK, U16, Class, expect
from cvqd.wire.virtio import Feature

#: hash_types u32, indirection_table_mask u16, unclassified_queue u16
_RSS_HEAD: Final = struct.Struct("<IHH")
#: max_tx_vq u16, hash_key_length u8
_RSS_TAIL: Final = struct.Struct("<HB")
#: hash_types u32, reserved u16[4], hash_key_length u8
_HASH_HEAD: Final = struct.Struct("<I8sB")


class HashType(enum.IntEnum):
    """Bit numbers of ``hash_types``, §5.1.6.4.3.1; a packet's report is the bit number plus one."""

    IPV4 = 0
    TCPV4 = 1
    UDPV4 = 2
    IPV6 = 3
    TCPV6 = 4
    UDPV6 = 5
    IP_EX = 6
    TCP_EX = 7
    UDP_EX = 8

    @property
    def mask(self) -> int:
        """The bit as a value of ``hash_types``."""
        return 1 << self


def hash_type_names(word: int) -> list[str]:
    """Names of the set bits in lower case; bits without a name are left out."""
    return [kind.name.lower() for kind in HashType if word & kind.mask]


@dataclass(frozen=True, slots=True)
class VqPairsSet:
    """Use this many queue pairs with automatic steering, §5.1.6.5.5."""

    pairs: int

    name: ClassVar[str] = "mq.vq_pairs_set"
    feature: ClassVar[Feature] = Feature.MQ
    answer_length: ClassVar[int] = ACK

    def encode(self) -> bytes:
        """Header and count."""
        return bytes((Class.MQ, 0)) + U16.pack(self.pairs)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        expect(data, 2, cls.name)
        return cls(U16.unpack_from(data, 2)[0])


@dataclass(frozen=True, slots=True)
class RssConfig:
    """Steer by a hash through a table of *receive pairs*, ``struct virtio_net_rss_config``, §5.1.6.5.7.

    ``mask`` is the number of table entries less one; ``max_tx_vq`` is the
    number of transmit queues the driver may use, ``key`` up to 255 bytes.
    """

    hash_types: int
    mask: int
    unclassified: int
    table: tuple[int, ...]
    max_tx_vq: int
    key: bytes

    name: ClassVar[str] = "mq.rss_config"
    feature: ClassVar[Feature] = Feature.RSS
    answer_length: ClassVar[int] = ACK

    def encode(self) -> bytes:
        """Header, fixed part, table, tail, key."""
        return b"".join(
            (
                bytes((Class.MQ, 1)),
                _RSS_HEAD.pack(self.hash_types, self.mask, self.unclassified),
                struct.pack(f"<{len(self.table)}H", *self.table),
                _RSS_TAIL.pack(self.max_tx_vq, len(self.key)),
                self.key,
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        if len(data) < 2 + _RSS_HEAD.size:
            raise GuestError("command.length", "mq.rss_config ends before its table")
        hash_types, mask, unclassified = _RSS_HEAD.unpack_from(data, 2)
        tail = 2 + _RSS_HEAD.size + 2 * (mask + 1)
        if len(data) < tail + _RSS_TAIL.size:
            raise GuestError("command.length", f"mq.rss_config ends inside a table of {mask + 1}")
        max_tx_vq, key_length = _RSS_TAIL.unpack_from(data, tail)
        table = struct.unpack_from(f"<{mask + 1}H", data, 2 + _RSS_HEAD.size)
        key = _key(data, tail + _RSS_TAIL.size, key_length, cls.name)
        return cls(hash_types, mask, unclassified, table, max_tx_vq, key)


@dataclass(frozen=True, slots=True)
class HashConfig:
    """Report a hash of each packet, with automatic steering; ``struct virtio_net_hash_config``, §5.1.6.5.6.

    ``reserved`` are the 8 bytes as sent, which have to be zero.
    """

    hash_types: int
    key: bytes
    reserved: bytes = bytes(8)

    name: ClassVar[str] = "mq.hash_config"
    feature: ClassVar[Feature] = Feature.HASH_REPORT
    answer_length: ClassVar[int] = ACK

    def encode(self) -> bytes:
        """Header, fixed part, key."""
        return (
            bytes((Class.MQ, 2)) + _HASH_HEAD.pack(self.hash_types, self.reserved, len(self.key)) + self.key
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        if len(data) < 2 + _HASH_HEAD.size:
            raise GuestError("command.length", "mq.hash_config ends before its key")
        hash_types, reserved, key_length = _HASH_HEAD.unpack_from(data, 2)
        return cls(hash_types, _key(data, 2 + _HASH_HEAD.size, key_length, cls.name), reserved)


def _key(data: bytes, start: int, length: int, name: str) -> bytes:
    """The key at the end of a command.

    Bytes after it are ignored: Linux 6.12 also sends the tail padding of its structure (``sizeof`` where
    ``offsetof`` was meant, ``drivers/net/virtio_net.c``), and the specification does not forbid it.
    """
    if len(data) < start + length:
        raise GuestError("command.length", f"{name} ends inside a key of {length} bytes")
    return data[start : start + length]
