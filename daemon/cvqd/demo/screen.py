"""How the demonstration looks: titles, labelled lines, ticks; plain text where colour is not wanted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import cvqd
from cvqd.host import colour

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

_BOLD: Final = "1"
_DIM: Final = "2"
_GREEN: Final = "32"
_RED: Final = "1;31"


class Screen:
    """Prints the story to ``out`` and counts its checks."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colour = colour.wanted(terminal=out.isatty())
        self._plain = not (out.encoding or "").lower().replace("-", "").startswith("utf8")
        self._steps = 0
        self._held = 0
        self._broken = 0
        self._begun = time.monotonic()

    def opening(self, text: str) -> None:
        """The first line."""
        self._line(self._paint(_BOLD, f"cvqd {cvqd.__version__}") + f"  {text}")

    def title(self, text: str) -> None:
        """Begin a numbered step."""
        self._steps += 1
        self._line("")
        self._line(self._paint(_BOLD, f"{self._steps}  {text}"))

    def lines(self, label: str, lines: Sequence[str]) -> None:
        """Lines under one label."""
        for number, line in enumerate(lines):
            self._line("   " + self._paint(_DIM, f"{label if number == 0 else '':<9}") + line)

    def remark(self, text: str) -> None:
        """Something to know."""
        self._line(f"   {text}")

    def check(self, text: str, *, holds: bool, instead: object = None) -> None:
        """A claim and whether it holds; ``instead`` is what was found."""
        if holds:
            self._held += 1
            self._line("   " + self._paint(_GREEN, "ok" if self._plain else "✓") + f"  {text}")
        else:
            found = "" if instead is None else f"; found: {instead}"
            self.failed(f"{text}{found}")

    def failed(self, text: str) -> None:
        """A claim that does not hold, or the reason why the story ends early."""
        self._broken += 1
        self._line("   " + self._paint(_RED, "FAILED") + f"  {text}")

    def conclude(self) -> bool:
        """The last line; True if there were checks and all held."""
        took = f"{time.monotonic() - self._begun:.1f} s"
        self._line("")
        if self._broken or not self._held:
            self._line(self._paint(_RED, f"{self._broken} failed") + f", {self._held} checks held, {took}")
            return False
        self._line(self._paint(_GREEN, f"All {self._held} checks held") + f", {took}")
        return True

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def _line(self, text: str) -> None:
        if self._plain:
            text = text.replace("µ", "u").encode("ascii", "replace").decode()
        print(text.rstrip(), file=self._out, flush=True)
