"""Values that are written as one word: durations, sizes, modes, paths.

Each function gives a ``config.fields.Scalar`` whose text in the manual and whose
schema state the range that its conversion enforces.  The schema's patterns are
those of the conversion, in the syntax that Python and ECMA 262 share.
"""

from __future__ import annotations

import os.path
import re
from typing import TYPE_CHECKING, Final, TypeVar

from cvqd.config.fields import Scalar, did_you_mean
from cvqd.wire.net_config import MAC, parse_mac

if TYPE_CHECKING:
    import enum
    from collections.abc import Callable

#: bytes of a socket's path: sun_path holds 108 with its terminating zero, unix(7)
SUN_PATH: Final = 107
#: PATH_MAX of linux/limits.h, with its terminating zero
PATH_MAX: Final = 4096

_UNITS: Final = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20}
_TRUTH: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

_DURATION: Final = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s?(s|ms|)"
_SIZE: Final = r"([0-9]{1,12})\s?([A-Za-z]*)"
_MODE: Final = r"0?[0-7]{3}"
#: goes before the pattern of a MAC address, or of its first bytes, that has to be unicast
UNICAST: Final = r"(?!.[13579BDFbdf])"
_NOT_ZERO: Final = r"(?!(?:00:){5}00$)"

E = TypeVar("E", bound="enum.Enum")


def choice(*words: str) -> Scalar:
    """One of these words."""

    def convert(text: str) -> str:
        if text not in words:
            raise ValueError(f"{_cut(text)} is not one of {', '.join(words)}{did_you_mean(text, words)}")
        return text

    return Scalar(", ".join(f"`{word}`" for word in words), convert, {"enum": list(words)})


def member(kind: type[E]) -> Scalar:
    """Member of an enumeration whose values are words."""
    words = choice(*(str(entry.value) for entry in kind))
    return Scalar(words.shown, lambda text: kind(words.convert(text)), words.schema)


def boolean() -> Scalar:
    """A truth value as YAML 1.1 spells it."""

    def convert(text: str) -> bool:
        value = _TRUTH.get(text.lower())
        if value is None:
            raise ValueError(f"{_cut(text)} is neither true nor false")
        return value

    # YAML 1.2, and most editors with it, takes these for strings
    spoken = [word for word in _TRUTH if word not in ("true", "false")]
    return Scalar("`true`, `false`", convert, {"enum": [True, False, *spoken]})


def integer(low: int, high: int) -> Scalar:
    """Whole number in a range, both ends included."""

    def convert(text: str) -> int:
        if not re.fullmatch(r"[-+]?[0-9]{1,18}", text, re.ASCII):
            raise ValueError(f"{_cut(text)} is not a whole number")
        return _within(int(text), low, high, str)

    return Scalar(f"{low} … {high}", convert, {"type": "integer", "minimum": low, "maximum": high})


def seconds(low: float, high: float) -> Scalar:
    """Duration as seconds: ``1s``, ``500ms``, ``0.5``."""

    def show(value: float) -> str:
        return f"{value * 1000:g}ms" if value < 1 else f"{value:g}s"

    def convert(text: str) -> float:
        match = re.fullmatch(_DURATION, text, re.ASCII)
        if match is None:
            raise ValueError(f"{_cut(text)} is not a duration such as 1s or 500ms")
        return _within(float(match[1]) / (1000 if match[2] == "ms" else 1), low, high, show)

    # a pattern cannot count: the range holds for plain seconds
    schema = {"type": ["string", "number"], "pattern": whole(_DURATION), "minimum": low, "maximum": high}
    return Scalar(f"duration, {show(low)} … {show(high)}", convert, schema)


def size(low: int, high: int) -> Scalar:
    """Number of bytes: ``64KiB``, ``1MiB``, ``4096``."""

    def show(value: int) -> str:
        unit = max(
            (unit for unit in _UNITS if unit and value % _UNITS[unit] == 0), key=lambda unit: _UNITS[unit]
        )
        return f"{value // _UNITS[unit]}{unit}"

    def convert(text: str) -> int:
        match = re.fullmatch(_SIZE, text, re.ASCII)
        if match is None:
            raise ValueError(f"{_cut(text)} is not a size such as 64KiB")
        if match[2] not in _UNITS:
            known = [unit for unit in _UNITS if unit]
            raise ValueError(
                f"unit {_cut(match[2])} is not one of {', '.join(known)}{did_you_mean(match[2], known)}"
            )
        return _within(int(match[1]) * _UNITS[match[2]], low, high, show)

    units = "|".join(unit for unit in _UNITS if unit)
    pattern = whole(rf"[0-9]{{1,12}}\s?({units})?")
    schema = {"type": ["string", "integer"], "pattern": pattern, "minimum": low, "maximum": high}
    return Scalar(f"bytes, {show(low)} … {show(high)}", convert, schema)


def mode() -> Scalar:
    """Permission bits in octal, quoted or not."""

    def convert(text: str) -> int:
        if not re.fullmatch(_MODE, text):
            raise ValueError(f'{_cut(text)} is not a file mode such as "0660"')
        return int(text, 8)

    # without quotes YAML 1.2 reads the digits as a decimal number, YAML 1.1 a leading 0 as octal
    schema = {"type": ["string", "integer"], "pattern": whole(_MODE), "minimum": 0, "maximum": 777}
    return Scalar("octal mode", convert, schema)


def path(longest: int = PATH_MAX - 1) -> Scalar:
    """Absolute path of at most ``longest`` bytes, without ``..`` and doubled slashes."""

    def convert(text: str) -> str:
        if not text.startswith("/"):
            raise ValueError(f"{_cut(text)} is not an absolute path")
        if not text.isprintable():  # a lone surrogate is not printable either: what passes can be encoded
            raise ValueError(f"{_cut(text)} has unprintable characters")
        normal = os.path.normpath(text)
        if len(normal.encode()) > longest:
            raise ValueError(f"a path of {len(normal.encode())} bytes; {longest} is the most")
        return normal

    return Scalar("path", convert, {"type": "string", "pattern": "^/", "maxLength": longest})


def mac() -> Scalar:
    """Six bytes of a unicast address that is not all zeroes."""

    def convert(text: str) -> bytes:
        value = parse_mac(text)
        if value[0] & 1 or not any(value):
            raise ValueError(f"{text} is not a station's address: it must be unicast and not zero")
        return value

    return Scalar("MAC address", convert, word(UNICAST + _NOT_ZERO + MAC))


def word(pattern: str) -> dict[str, str]:
    """Schema of a text that matches."""
    return {"type": "string", "pattern": whole(pattern)}


def whole(pattern: str) -> str:
    """The pattern anchored for JSON Schema, where it could match anywhere."""
    return f"^(?:{pattern})$"


N = TypeVar("N", int, float)


def _within(value: N, low: N, high: N, show: Callable[[N], str]) -> N:
    if not low <= value <= high:
        raise ValueError(f"{show(value)} is not between {show(low)} and {show(high)}")
    return value


def _cut(text: str) -> str:
    return ascii(text if len(text) <= 48 else f"{text[:45]}...")
