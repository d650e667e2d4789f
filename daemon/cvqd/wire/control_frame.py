"""The frame of a control command, virtio 1.3 §5.1.6.5: ``class`` u8, ``command`` u8, data; ack, result.

The base of every command's codec; it knows no single command.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

from cvqd.errors import GuestError

OK: Final = 0
ERR: Final = 1

#: bytes of the ack, which precedes every result
ACK: Final = 1

U16: Final = struct.Struct("<H")
U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")


class Class(enum.IntEnum):
    """Command classes; cvqd's log names are these in lower case."""

    RX = 0
    MAC = 1
    VLAN = 2
    ANNOUNCE = 3
    MQ = 4
    GUEST_OFFLOADS = 5
    NOTF_COAL = 6
    HASH_TUNNEL = 7
    STATS = 8
    RSS_CTX = 9


def expect(data: bytes, length: int, name: str) -> None:
    """GuestError ``command.length`` unless a command has exactly ``length`` bytes after its header."""
    if len(data) != 2 + length:
        raise GuestError("command.length", f"{name} takes {length} bytes, not {len(data) - 2}")
