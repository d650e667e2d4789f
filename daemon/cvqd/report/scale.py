"""Durations as people write them, and round numbers for an axis."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

#: the sign, which is as wide as a plus
MINUS: Final = "\N{MINUS SIGN}"

_UNITS: Final = ((1_000_000, "s"), (1_000, "ms"), (1, "µs"))


def duration(us: float) -> str:
    """Three digits and a unit: ``850 µs``, ``1.84 ms``, ``23.1 s``."""
    size, unit = next((entry for entry in _UNITS if us >= entry[0]), _UNITS[-1])
    value = us / size
    digits = 0 if size == 1 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def mark(us: float) -> str:
    """A round duration: ``1 ms``, ``250 µs``."""
    size, unit = next((entry for entry in _UNITS if us >= entry[0]), _UNITS[-1])
    return f"{us / size:g} {unit}" if us else "0"


def plural(number: int, noun: str) -> str:
    """``1 move``, ``2 moves``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def step(span: float, parts: int = 6) -> float:
    """The round distance (1, 2 or 5 times a power of ten) that cuts a span into at most ``parts``."""
    if span <= 0:
        return 1.0
    for power in count(-3):
        for factor in (1, 2, 5):
            if span / (factor * 10.0**power) <= parts:
                return factor * 10.0**power
    raise AssertionError


def marks(least: float, most: float, parts: int = 6) -> Iterator[float]:
    """Round numbers from ``least`` to ``most``."""
    distance = step(most - least, parts)
    for number in count(-int(-least // distance)):
        if number * distance > most:
            return
        yield number * distance
