"""Capture files, pcapng 1.0 (draft-ietf-opsawg-pcapng): one section, one interface, packets with comments.

Everything is little-endian; times are ns since 1970.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

#: first of the link types that are free for private use (LINKTYPE_USER0)
USER0: Final = 147

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_PACKET: Final = 6
_BYTE_ORDER: Final = 0x1A2B3C4D

# option codes: of every block, of a section, of an interface, of a packet
_END, _COMMENT = 0, 1
_APPLICATION: Final = 4
_NAME, _DESCRIPTION, _RESOLUTION = 2, 3, 9
_FLAGS: Final = 2

_NANOSECONDS: Final = 9  # the negative power of ten, in seconds
#: bytes of an option's value, at most
_LONGEST: Final = 0xFFFF


class Direction(enum.IntEnum):
    """Direction bits of a packet's flags."""

    INBOUND = 1
    OUTBOUND = 2


def section(application: str, comment: str) -> bytes:
    """The section header, with which a file begins."""
    # -1: the length of the section is not known
    head = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1)
    return _block(_SECTION, head, (_APPLICATION, application.encode()), (_COMMENT, comment.encode()))


def interface(link_type: int, name: str, description: str) -> bytes:
    """The description of the only interface."""
    return _block(
        _INTERFACE,
        struct.pack("<HHI", link_type, 0, 0),
        (_NAME, name.encode()),
        (_DESCRIPTION, description.encode()),
        (_RESOLUTION, bytes((_NANOSECONDS,))),
    )


def packet(time_ns: int, data: bytes, direction: Direction, comment: str, *, length: int = 0) -> bytes:
    """One packet; ``length`` is its full length if ``data`` is only its beginning."""
    head = struct.pack("<IIIII", 0, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), max(length, len(data)))
    return _block(
        _PACKET,
        head + _padded(data),
        (_COMMENT, comment.encode()),
        (_FLAGS, struct.pack("<I", direction)),
    )


def _block(kind: int, body: bytes, *options: tuple[int, bytes]) -> bytes:
    parts = [body]
    for code, value in options:
        # a UTF-8 character that is cut apart is dropped
        part = value if len(value) <= _LONGEST else value[:_LONGEST].decode(errors="ignore").encode()
        parts += [struct.pack("<HH", code, len(part)), _padded(part)]
    parts.append(struct.pack("<HH", _END, 0))
    content = b"".join(parts)
    # the length is written at both ends, so that a reader can go backwards
    length = struct.pack("<I", 12 + len(content))
    return struct.pack("<I", kind) + length + content + length


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
