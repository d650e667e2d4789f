"""A count on the command line: a whole number from 1 on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def up_to(most: int | None = None) -> Callable[[str], int]:
    """An argparse type: 1 to ``most``, or 1 and more without it; anything else is a usage error."""
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
