"""A reader of pcapng files that shares nothing with the writer: block by block, by the draft's section 4."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Packet:
    time_ns: int
    data: bytes
    length: int
    options: dict[int, bytes]

    @property
    def comment(self) -> str:
        return self.options[1].decode()

    @property
    def direction(self) -> int:
        return struct.unpack("<I", self.options[2])[0] & 3


@dataclass
class Capture:
    section: dict[int, bytes]
    link_type: int
    interface: dict[int, bytes]
    packets: list[Packet] = field(default_factory=list)


def read(data: bytes) -> Capture:
    """AssertionError for what breaks the format."""
    blocks = list(_blocks(data))
    kind, body = blocks.pop(0)
    assert kind == 0x0A0D0D0A
    assert struct.unpack_from("<IHHq", body) == (0x1A2B3C4D, 1, 0, -1)
    section = _options(body[16:])
    kind, body = blocks.pop(0)
    assert kind == 1
    link_type, reserved, snap = struct.unpack_from("<HHI", body)
    assert reserved == snap == 0
    found = Capture(section, link_type, _options(body[8:]))
    assert found.interface[9] == b"\x09", "times in ns"
    for kind, body in blocks:
        assert kind == 6
        interface, high, low, captured, length = struct.unpack_from("<IIIII", body)
        assert interface == 0
        end = 20 + (captured + 3 & ~3)
        found.packets.append(Packet(high << 32 | low, body[20 : 20 + captured], length, _options(body[end:])))
    return found


def _blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, at + length - 4) == (length,)
        yield kind, data[at + 8 : at + length - 4]
        at += length
    assert at == len(data)


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while True:
        code, length = struct.unpack_from("<HH", data, at)
        value = data[at + 4 : at + 4 + length]
        assert len(value) == length
        at += 4 + (length + 3 & ~3)
        if code == 0:
            assert (length, at) == (0, len(data))
            return found
        found[code] = value
