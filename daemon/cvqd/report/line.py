"""One line of a log as a value: ours, or counted as foreign or torn.

A line is ours as ``host.logging`` writes it, bare or behind whatever a
collector puts in front, or as the MESSAGE of a journal entry in JSON.  Its
header is checked here; other fields are asked for with ``number``, ``word`` and
``numbers``, which give what they promise whatever the line holds.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

Fields = dict[str, Any]

#: how each of our lines begins: the order of its keys is fixed
_OPENING: Final = b'{"schema":'
#: and how it goes on, unlike the status inside ``status.reported``
_HEADER: Final = re.compile(_OPENING + rb'[0-9]{1,9},"ts":')
#: 2026-11-22T17:12:17.852Z
_TIMESTAMP_LENGTH: Final = 24
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOST: Final = 1 << 63
#: characters of a word that are kept
_WORD: Final = 240

_decode: Final = json.JSONDecoder().decode
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


class Place(NamedTuple):
    """Where a line stands; ``text`` is as much of it as a person wants to see."""

    file: str
    number: int
    text: str = ""


class Line:
    """A line of ours: ``fields`` with a checked header, from line ``number`` of ``file``."""

    __slots__ = ("fields", "file", "mono_ns", "number", "seq")

    def __init__(self, file: str, number: int, fields: Fields) -> None:
        self.file = file
        self.number = number
        self.fields = fields
        self.mono_ns: int = fields["mono_ns"]
        self.seq: int = fields["seq"]

    @property
    def place(self) -> Place:
        """Where it stands, with its text."""
        return Place(self.file, self.number, _cut(_encoded(self.fields), 4 * _WORD))

    @property
    def ts(self) -> str:
        """Wall time as the line has it."""
        return word(self.fields, "ts")

    @property
    def wall_us(self) -> int | None:
        """Wall time in µs since 1970; None where the text is no date."""
        try:
            # Python 3.11 reads the Z
            return (datetime.fromisoformat(self.fields["ts"]) - _EPOCH) // timedelta(microseconds=1)
        except (ValueError, TypeError):
            return None

    @property
    def instance(self) -> str:
        """Whose line it is."""
        return word(self.fields, "instance")

    @property
    def run_id(self) -> str:
        """Which run of the daemon wrote it."""
        return word(self.fields, "run_id")


def parse(raw: bytes) -> Fields | None:
    """Fields of a line of ours; None for any other bytes."""
    start = -1
    # a line that was torn by a full disk has the next one right behind it
    for opening in _HEADER.finditer(raw):
        start = opening.start()
    try:
        if start >= 0:
            return _checked(_decode(raw[start:].decode()))
        return _checked(_journal_message(_decode(raw.decode())))
    # json gives up on deep nesting with a RecursionError
    except (ValueError, RecursionError):
        return None


def is_torn(raw: bytes) -> bool:
    """Whether bytes that ``parse`` refused began as a line of ours."""
    return _OPENING in raw


def _journal_message(entry: object) -> object:
    """What a journal entry of ``journalctl -o json`` carries; the entry itself if it is none."""
    if not isinstance(entry, dict) or "MESSAGE" not in entry:
        return entry
    message = entry["MESSAGE"]
    if isinstance(message, list):
        # a message with bytes that are no text comes as numbers, journalctl(1)
        message = bytes(message).decode()
    return _decode(message) if isinstance(message, str) else None


def _checked(fields: object) -> Fields | None:
    if not isinstance(fields, dict):
        return None
    ts, run_id, event = fields.get("ts"), fields.get("run_id"), fields.get("event")
    if not (isinstance(ts, str) and isinstance(run_id, str) and isinstance(event, str)):
        return None
    if len(ts) != _TIMESTAMP_LENGTH or len(run_id) > _WORD or not isinstance(fields.get("instance"), str):
        return None
    if number(fields, "seq") is None or number(fields, "mono_ns") is None:
        return None
    return fields


def number(fields: Fields, key: str) -> int | None:
    """A whole number from 0 to 2**63 - 1, None if the line has none."""
    value = fields.get(key)
    return value if type(value) is int and 0 <= value < _MOST else None


def numbers(fields: Fields, key: str) -> frozenset[int]:
    """The ring numbers in a list."""
    value = fields.get(key)
    if not isinstance(value, list):
        return frozenset()
    return frozenset(entry for entry in value if type(entry) is int and 0 <= entry < 1 << 16)


def word(fields: Fields, key: str) -> str:
    """A value as printable text of bounded length: no line break, no escape sequence; empty if missing."""
    value = fields.get(key, "")
    return printable(value if isinstance(value, str) else _encoded(value))


def printable(text: str) -> str:
    """Text that may be shown anywhere: what does not print is escaped, what is too long is cut."""
    if not text.isprintable():
        # a lone surrogate is not printable either, and no encoder takes it
        text = "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)
    return _cut(text, _WORD)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"


def _encoded(value: object) -> str:
    try:
        return _encode(value)
    except RecursionError:
        return "…"
