"""A series of moves that an operator asked for: ``cvqd rehearse``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cvqd.report.line import number, word
from cvqd.report.scale import plural

if TYPE_CHECKING:
    from cvqd.report.line import Line


@dataclass(slots=True)
class Rehearsal:
    """What was asked for, and how it ended; ``times`` were asked for, ``moves`` were made."""

    name: str
    line: Line
    to: str
    times: int | None
    back: bool
    dry: bool
    verdict: str = ""
    moves: int | None = None
    failed: int | None = None

    @classmethod
    def begun(cls, line: Line) -> Rehearsal:
        """From the line that opens it."""
        fields = line.fields
        return cls(
            word(fields, "rehearsal"),
            line,
            word(fields, "to"),
            number(fields, "times"),
            fields.get("back") is True,
            fields.get("dry") is True,
        )

    def ended(self, line: Line) -> None:
        """From the line that closes it."""
        self.verdict = word(line.fields, "verdict")
        self.moves = number(line.fields, "moves")
        self.failed = number(line.fields, "failed")

    @property
    def asked(self) -> str:
        """What was asked for, in words."""
        if self.dry:
            return f"dry, against {self.to}" if self.to else "dry"
        times = "" if self.times in (None, 1) else f", {self.times} times"
        return f"to {self.to}{' and back' if self.back else ''}{times}"

    @property
    def outcome(self) -> str:
        """How it ended, in words."""
        if self.moves is None and not self.verdict:
            return "No line tells how it ended."
        moves = "" if self.moves is None else f"{plural(self.moves, 'move')}, {self.failed or 0} failed: "
        return f"{moves}{self.verdict}"
