"""The state log as bytes: it lets the next process know what this one's guest was told.

The log has one page of header, with two places for notes, then two halves of
equal size.  A half is a generation (u64), a tail (u64: bytes of records) and
records.  The half with the higher generation is in force.  Records beyond its
tail do not count yet.  The next base is written to the other half, whose
generation is stored last.  So each step from one valid log to the next is a
single store of eight bytes.

A record is a checksum of what follows, a word with its kind and length, a
sequence number and data, padded to eight bytes.  Everything is little-endian,
as in the rings.

A note is a checksum, a length, a number and data.  Of the two notes the one
with the higher number counts, and the next one overwrites the other.

Input is untrusted: the file may be of another version or another boot, cut
short, or damaged.  ``Header.decode`` refuses with a reason, ``scan`` ends at the
first record that is not whole.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple
from zlib import crc32

MAGIC: Final = b"cvqd-log"
VERSION: Final = 2

#: bytes before the first half
HEADER_SIZE: Final = 4096
#: where in the header page the two notes are, and how long each may be
NOTES: Final = (640, 2368)
MAX_NOTE: Final = 1728
#: bytes of a half before its records: generation, tail
HALF_HEADER: Final = 16
#: bytes of the device's name, which may be a path
MAX_NAME: Final = 512
#: bytes of a log; two commands of 16 MiB in each half stay well below it
MAX_LOG: Final = 256 << 20

_HEADER: Final = struct.Struct("<8sIHH16sQ")
_CHECKSUM: Final = struct.Struct("<I")
_HALF: Final = struct.Struct("<QQ")
_RECORD: Final = struct.Struct("<IIQ")
_COVERED: Final = struct.Struct("<IQ")
#: padding, indexed by the length modulo 8
_PADDING: Final = tuple(bytes(-rest % 8) for rest in range(8))
_KIND_SHIFT: Final = 28
_LENGTH: Final = (1 << _KIND_SHIFT) - 1


class LogError(ValueError):
    """The bytes are not a usable log; the text says why."""


class OutdatedLogError(LogError):
    """The log is sound but of an earlier boot."""


class Kind(enum.IntEnum):
    """What a record says."""

    #: the part of a driver's life that no command sets; the first record of every base
    LIFE = 1
    #: a control command that the device acknowledged
    COMMAND = 2
    #: the driver's life is over; what comes before this does not count
    ENDED = 3


class Record(NamedTuple):
    """``sequence`` is the command's place in the order of submission, 0 for the records of a base."""

    kind: int
    sequence: int
    data: bytes


class Header(NamedTuple):
    """Whose log it is: 16 bytes of boot id, the device's name; ``half`` in bytes."""

    boot_id: bytes
    device: str
    half: int

    @property
    def size(self) -> int:
        """Bytes of the whole log."""
        return HEADER_SIZE + 2 * self.half

    def encode(self) -> bytes:
        """First bytes of a log, at most ``HEADER_SIZE``."""
        name = self.device.encode()[:MAX_NAME]
        body = _HEADER.pack(MAGIC, 0, VERSION, len(name), self.boot_id, self.half)[12:] + name
        return MAGIC + _CHECKSUM.pack(crc32(body)) + body

    @classmethod
    def decode(cls, log: bytes | memoryview) -> Header:
        """Header of a complete log; LogError if that is not a sound log of this version."""
        if len(log) < HEADER_SIZE:
            raise LogError(f"{len(log)} bytes are no log")
        magic, checksum, version, length, boot_id, half = _HEADER.unpack_from(log)
        if magic != MAGIC:
            raise LogError("it does not begin as a log does")
        if version != VERSION:
            raise LogError(f"version {version} is not {VERSION}")
        body = bytes(log[12 : _HEADER.size + length])
        if length > MAX_NAME or crc32(body) != checksum:
            raise LogError("its header is damaged")
        header = cls(boot_id, body[_HEADER.size - 12 :].decode(errors="replace"), half)
        if half % 8 or half <= HALF_HEADER or len(log) != header.size:
            raise LogError(f"{len(log)} bytes, not the {header.size} that its header says")
        return header


def encode_note(number: int, data: bytes) -> bytes:
    """A note of at most ``MAX_NOTE`` bytes, for one of the places in ``NOTES``."""
    body = _COVERED.pack(len(data), number) + data
    if len(body) + _CHECKSUM.size > MAX_NOTE:
        raise ValueError(f"a note of {len(data)} bytes")
    return _CHECKSUM.pack(crc32(body)) + body


def last_note(log: memoryview) -> tuple[int, bytes]:
    """Number and data of the note that counts; (0, b"") where there is none."""
    found = (0, b"")
    for at in NOTES:
        checksum, length, number = _RECORD.unpack_from(log, at)
        end = at + _RECORD.size + length
        if end <= at + MAX_NOTE and crc32(log[at + _CHECKSUM.size : end]) == checksum:
            found = max(found, (number, bytes(log[at + _RECORD.size : end])))
    return found


def half_at(log: memoryview, number: int) -> memoryview:
    """Bytes of half 0 or 1 of a log with a sound header."""
    size = (len(log) - HEADER_SIZE) // 2
    begin = HEADER_SIZE + number * size
    return log[begin : begin + size]


def generation_and_tail(half: memoryview) -> tuple[int, int]:
    """Generation and tail of a half; a half that was never used has generation 0."""
    generation, tail = _HALF.unpack_from(half)
    return generation, tail


def record_size(length: int) -> int:
    """Bytes that a record with ``length`` bytes of data takes."""
    return _RECORD.size + (length + 7 & ~7)


def encode_record(kind: int, sequence: int, data: bytes) -> bytes:
    """One record, padded."""
    length = len(data)
    body = _COVERED.pack(kind << _KIND_SHIFT | length, sequence) + data + _PADDING[length & 7]
    return crc32(body).to_bytes(4, "little") + body


class Scan(NamedTuple):
    """Records up to the first bad one, and the number of bytes lost from there to the tail."""

    records: list[Record]
    lost: int


def scan(half: memoryview) -> Scan:
    """Read the records of a half."""
    _, tail = generation_and_tail(half)
    end = min(HALF_HEADER + tail, len(half))
    at = HALF_HEADER
    records: list[Record] = []
    while at + _RECORD.size <= end:
        checksum, word, sequence = _RECORD.unpack_from(half, at)
        length = word & _LENGTH
        behind = at + record_size(length)
        if behind > end or crc32(half[at + _CHECKSUM.size : behind]) != checksum:
            break
        begin = at + _RECORD.size
        records.append(Record(word >> _KIND_SHIFT, sequence, bytes(half[begin : begin + length])))
        at = behind
    return Scan(records, HALF_HEADER + tail - at)
