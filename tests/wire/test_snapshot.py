from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvqd.core.tracked import TrackedState
from cvqd.errors import SnapshotError
from cvqd.wire import snapshot
from cvqd.wire.net_control import AnnounceAck, MacTableSet, StatsQuery, Unknown, VlanAdd
from cvqd.wire.snapshot import RingBase, decode, encode, sealed
from kit.snapshot_examples import MAC, largest_state, snapshot_of, snapshots

PLAIN = snapshot_of(TrackedState(MAC), rings=(RingBase(0, 256, 7), RingBase(1, 256, None)))
HEADER = 16
SUM = 16


def section(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("<HHI", kind, flags, len(body)) + body


def whole(sections: bytes, magic: bytes = snapshot.MAGIC, major: int = 1, minor: int = 0) -> bytes:
    return sealed(struct.pack("<8sHHI", magic, major, minor, HEADER + len(sections) + SUM) + sections)


SECTIONS = encode(PLAIN)[HEADER:-SUM]


@given(snapshots)
def test_what_was_encoded_is_decoded(taken):
    assert decode(encode(taken)) == taken


def test_the_largest_state_there_can_be_fits_easily():
    data = encode(snapshot_of(largest_state()))
    assert decode(data).commands == snapshot_of(largest_state()).commands
    assert len(data) < snapshot.MAX_SIZE / 100


def test_the_format_is_what_its_first_version_was():
    # bytes that are kept on disks: a change of them is another major version
    assert encode(PLAIN).hex() == (
        "637671640d0a1a00" "0100" "0000" "ba000000"
        "0100" "0100" "13000000" "73696d756c61746f722073696d756c61746f72"
        "0200" "0100" "0a000000" "ffffffffffffffff" "0800"
        "0300" "0100" "18000000" "525400000001" "0100" "0100" "dc05" "ffffffff" "ff" "00" "0000" "00000000"
        "0400" "0100" "09000000" "00" "61a172caaf91dfdd"
        "0500" "0100" "1a000000" "08000000" "0101" "525400000001" "03000000" "000001" "03000000" "000100"
        "0600" "0100" "12000000" "0000" "0001" "01" "07000000" "0100" "0001" "00" "00000000"
        "900c0d9acea5df4c875973bff6339515"
    )  # fmt: skip


def test_a_section_of_a_later_minor_version_is_skipped_unless_it_must_be_understood():
    assert decode(whole(SECTIONS + section(9, b"news"), minor=3)) == PLAIN
    with pytest.raises(SnapshotError, match="section 9 has to be understood") as refused:
        decode(whole(SECTIONS + section(9, b"news", flags=1)))
    assert refused.value.offset == HEADER + len(SECTIONS)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes are no header"),
        (encode(PLAIN)[:12], "12 bytes are no header"),
        (whole(SECTIONS, magic=b"somewhat"), "does not begin like one"),
        (whole(SECTIONS, major=2), "version 2, this cvqd reads 1"),
        (whole(SECTIONS, major=0), "version 0"),
        (encode(PLAIN)[:-1], "bytes where it says"),
        (encode(PLAIN) + b"\0", "bytes where it says"),
        (struct.pack("<8sHHI", snapshot.MAGIC, 1, 0, 0xFFFF_FFFF) + SECTIONS, "are more than"),
        (struct.pack("<8sHHI", snapshot.MAGIC, 1, 0, 20) + bytes(4), "bytes where it says"),
        (encode(PLAIN)[:-1] + b"\0", "checksum"),
        (whole(SECTIONS + b"\1"), "inside a section's header"),
        (whole(SECTIONS + section(9, b"news")[:-1]), "inside section 9"),
        (whole(SECTIONS + section(6, b"")), "section 6 behind section 6"),
        (whole(SECTIONS + section(9, b"", flags=2)), "flags 0x2"),
        (whole(b""), "section 1 is missing"),
        (whole(section(9, b"")), "section 1 is missing"),
    ],
)
def test_what_is_framed_wrongly_is_refused_with_the_reason(data, reason):
    with pytest.raises(SnapshotError, match=reason):
        decode(data)


def replaced(kind: int, body: bytes) -> bytes:
    """PLAIN with another body of one section."""
    parts, at = b"", 0
    while at < len(SECTIONS):
        number, flags, length = struct.unpack_from("<HHI", SECTIONS, at)
        own = SECTIONS[at + 8 : at + 8 + length]
        parts += section(number, body if number == kind else own, flags)
        at += 8 + length
    return whole(parts)


def command(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (1, b"x" * 257, "origin of 257 bytes"),
        (1, b"\xff", "not UTF-8"),
        (1, b"\x1b[2J", "cannot be printed"),
        (2, bytes(9), "9 bytes where 10 belong"),
        (3, bytes(4097), "4097 bytes of configuration"),
        (4, b"\2" + bytes(8), "announce 2"),
        (5, b"\0", "inside a length"),
        (5, command(b"\2\0\5\0")[:-1], "inside a command"),
        (5, command(b"\2\0\5"), "vlan.add takes 2 bytes"),
        (5, command(b""), "0 bytes are no header"),
        (5, command(Unknown(9, 9).encode()), "rss_ctx.9 sets nothing"),
        (5, command(AnnounceAck().encode()), "announce.ack sets nothing"),
        (5, command(StatsQuery().encode()), "stats.query sets nothing"),
        (6, bytes(8), "inside a ring"),
        (6, struct.pack("<HHBI", 0, 0, 1, 0), "ring 0 has 0 descriptors"),
        (6, struct.pack("<HHBI", 0, 0x8001, 1, 0), "has 32769 descriptors"),
        (6, struct.pack("<HHBI", 0, 1, 2, 0), "has a base and has none"),
        (6, struct.pack("<HHBI", 0, 1, 0, 1), "has a base and has none"),
        (6, struct.pack("<HHBI", 0, 1, 1, 1) * 2, "ring 0 behind ring 0"),
    ],
)
def test_a_section_that_says_what_it_cannot_is_refused_at_its_place(kind, body, reason):
    data = replaced(kind, body)
    with pytest.raises(SnapshotError, match=reason) as refused:
        decode(data)
    assert HEADER < refused.value.offset < len(data)


def test_more_commands_than_a_state_can_need_are_refused(monkeypatch):
    monkeypatch.setattr(snapshot, "MAX_COMMANDS", 2)
    with pytest.raises(SnapshotError, match="more than 2 commands"):
        decode(replaced(5, command(VlanAdd(1).encode()) * 3))


def test_a_state_too_large_to_be_read_again_is_not_written(monkeypatch):
    monkeypatch.setattr(snapshot, "MAX_SIZE", 6000)
    table = MacTableSet((MAC,) * 1000, ())
    with pytest.raises(SnapshotError, match="are more than"):
        encode(snapshot_of(TrackedState(MAC), commands=(table,)))


@given(snapshots, st.data())
def test_any_change_of_the_bytes_is_noticed(taken, data):
    encoded = bytearray(encode(taken))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SnapshotError):
        decode(bytes(encoded))
