"""A log line's object as one line for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cvqd.text import paint
from cvqd.text.paint import PLAIN, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cvqd.text.paint import Paint

#: fields of every line, which a reader of one instance's lines need not see
_HEADER: Final = frozenset(
    ("schema", "ts", "mono_ns", "seq", "run_id", "instance", "device", "level", "event")
)
_STYLES: Final = {"debug": paint.DIM, "warning": paint.YELLOW, "error": paint.RED}


def as_line(event: Mapping[str, Any], width: int = 0, colour: Paint = PLAIN) -> str:
    """Time of day (UTC), level, name, fields; cut at ``width`` columns, if any."""
    if "lost" in event:
        level, line = "warning", f"{'':12}  … {event['lost']} lines are missing here"
    else:
        level = str(event.get("level", ""))
        fields = " ".join(f"{key}={_value(value)}" for key, value in event.items() if key not in _HEADER)
        line = f"{str(event.get('ts', ''))[11:-1]:12}  {level:<7}  {event.get('event', '')!s:<22}  {fields}"
    line = printable(line.rstrip())
    return colour(_STYLES.get(level, ""), line[:width] if width else line)


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return str(value)
