"""Colour on terminals only, and foreign text made harmless for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.host import colour

if TYPE_CHECKING:
    from typing import TextIO

BOLD: Final = "1"
DIM: Final = "2"
RED: Final = "1;31"
GREEN: Final = "32"
YELLOW: Final = "33"


class Paint:
    """``paint(GREEN, text)`` is the text in that style, or as it is where no colour is wanted."""

    def __init__(self, *, on: bool) -> None:
        self._on = on

    @classmethod
    def for_stream(cls, out: TextIO) -> Paint:
        """Colour where ``out`` is a terminal that wants it."""
        return cls(on=colour.wanted(terminal=out.isatty()))

    def __call__(self, style: str, text: str) -> str:
        """The text in a style; an empty style is none."""
        return f"\x1b[{style}m{text}\x1b[0m" if self._on and style and text else text


PLAIN: Final = Paint(on=False)


def printable(text: str) -> str:
    """The text with a question mark for each control character."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
