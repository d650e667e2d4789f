"""Configuration space of a virtio network device, virtio 1.3 §5.1.4 (the first 24 bytes)."""

from __future__ import annotations

import enum
import re
import struct
from typing import Final, NamedTuple

NET_CONFIG: Final = struct.Struct("<6sHHHIBBHI")
SIZE: Final = NET_CONFIG.size

OFFSET_MAC: Final = 0
OFFSET_STATUS: Final = 6

#: a MAC address as text
MAC: Final = r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}"


class LinkStatus(enum.IntFlag):
    """Bits of ``status``, virtio 1.3 §5.1.4."""

    LINK_UP = 1
    ANNOUNCE = 2


class NetConfig(NamedTuple):
    """All fields of the space; the feature word decides which of them are valid.

    ``mac`` 6 bytes, ``mtu`` bytes, ``speed`` Mbit/s, lengths in bytes and table entries.
    """

    mac: bytes
    status: int = LinkStatus.LINK_UP
    max_virtqueue_pairs: int = 1
    mtu: int = 1500
    speed: int = 0xFFFFFFFF
    duplex: int = 0xFF
    rss_max_key_size: int = 0
    rss_max_indirection_table_length: int = 0
    supported_hash_types: int = 0

    def encode(self) -> bytes:
        """The 24 bytes of the space."""
        return NET_CONFIG.pack(*self)


def decode(data: bytes) -> NetConfig:
    """Fields of a configuration space; beyond the end of a shorter one they are zero."""
    return NetConfig._make(NET_CONFIG.unpack(data[:SIZE].ljust(SIZE, b"\0")))


def format_mac(mac: bytes) -> str:
    """``52:54:00:12:34:56``."""
    return mac.hex(":")


def parse_mac(text: str) -> bytes:
    """Six bytes from ``52:54:00:12:34:56``; ValueError for anything else."""
    if not re.fullmatch(MAC, text):
        raise ValueError(f"{text!r} is not a MAC address such as 52:54:00:12:34:56")
    return bytes.fromhex(text.replace(":", ""))
