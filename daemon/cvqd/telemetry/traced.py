"""One traced command and its line of JSON, written by the daemon and read by ``cvqd trace``.

    {"time_ns", "command_id", "command", "outcome", "ack", "elapsed_us", "bytes", "data", "result", "reason"}

``data`` and ``result`` are in hexadecimal; ``result`` and ``reason`` are left
out when empty.  The reader of the line decodes the command's fields, which
spares the daemon the work.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

#: bytes of a command that are traced: all of them, unless ``control_queue.max_command`` was raised
SNAP: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Traced:
    """``time_ns`` (since 1970) is when the command was popped; ``ack`` is None if unknown.

    ``data`` are the guest's bytes, ``length`` how many they were before being cut; ``result`` is what
    the device returned besides its ack.
    """

    time_ns: int
    command_id: int
    command: str
    outcome: str
    ack: int | None
    elapsed_us: int
    length: int
    data: bytes
    result: bytes
    reason: str

    def line(self) -> bytes:
        """The line, with its line break."""
        record: dict[str, Any] = {
            "time_ns": self.time_ns,
            "command_id": self.command_id,
            "command": self.command,
            "outcome": self.outcome,
            "ack": self.ack,
            "elapsed_us": self.elapsed_us,
            "bytes": self.length,
            "data": self.data.hex(),
        }
        if self.result:
            record["result"] = self.result.hex()
        if self.reason:
            record["reason"] = self.reason
        return json.dumps(record, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Self:
        """From a line's object; KeyError, TypeError or ValueError for any other object."""
        return cls(
            time_ns=int(record["time_ns"]),
            command_id=int(record["command_id"]),
            command=str(record["command"]),
            outcome=str(record["outcome"]),
            ack=None if record["ack"] is None else int(record["ack"]),
            elapsed_us=int(record["elapsed_us"]),
            length=int(record["bytes"]),
            data=bytes.fromhex(record["data"]),
            result=bytes.fromhex(record.get("result", "")),
            reason=str(record.get("reason", "")),
        )
