"""How often: a whole number on the command line, from 1 on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def up_to(most: int | None = None) -> Callable[[str], int]:
    """What reads an argument as 1 to ``most``, or 1 and more; anything else is a wrong command line."""
    wanted = "1 or more" if most is None else f"1 to {most}"

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = 0
        if value < 1 or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {wanted}")
        return value

    return number
