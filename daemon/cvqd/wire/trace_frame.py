"""A traced command as two frames of a capture: the guest's command, and the answer it got.

    version u8 (1), kind u8, outcome u8, reserved u8, command id u32; then
    kind 1, a command:  class u8, command u8, data, as the guest wrote them
    kind 2, an answer:  ack u8, result, as the guest got them

Numbers are little-endian, as in the commands.  The capture's link type is
USER0; ``config/cvqd.lua`` shows the fields in Wireshark.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple, Self

_HEADER: Final = struct.Struct("<BBBBI")
_VERSION: Final = 1
_IDS: Final = 1 << 32


class Kind(enum.IntEnum):
    """Whether a frame is a command or an answer."""

    COMMAND = 1
    ANSWER = 2


class Outcome(enum.IntEnum):
    """What became of a command; NONE in the frame of the command itself."""

    NONE = 0
    OK = 1
    ERR = 2
    REFUSED = 3
    MALFORMED = 4
    EXPIRED = 5
    LATE = 6


class TraceFrame(NamedTuple):
    """One frame; ``payload`` is the command or the answer."""

    kind: Kind
    outcome: Outcome
    command_id: int
    payload: bytes

    def encode(self) -> bytes:
        """Header with the low 32 bits of the id, then the payload."""
        return _HEADER.pack(_VERSION, self.kind, self.outcome, 0, self.command_id % _IDS) + self.payload

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a packet of a capture; ValueError if it is not such a frame."""
        if len(data) < _HEADER.size:
            raise ValueError(f"{len(data)} bytes are no frame")
        version, kind, outcome, _, command_id = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise ValueError(f"version {version}")
        return cls(Kind(kind), Outcome(outcome), command_id, data[_HEADER.size :])
