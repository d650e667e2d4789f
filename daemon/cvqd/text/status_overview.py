"""Several instances at a glance: one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cvqd.text import paint
from cvqd.text.paint import PLAIN, printable
from cvqd.text.status_text import emphasized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cvqd.text.paint import Paint

_COLUMNS: Final = (
    "instance",
    "phase",
    "isolation",
    "mac",
    "pairs",
    "commands",
    "not ok",
    "expired",
    "digest",
    "device",
)
_NUMBERS: Final = ("pairs", "commands", "not ok", "expired")


def overview(reports: Sequence[Mapping[str, Any]], width: int = 100, colour: Paint = PLAIN) -> str:
    """A table of statuses, cut at ``width`` columns; ``status_text`` shows one in full."""
    rows = [_row(status) for status in reports]
    widths = [max(len(row[place]) for row in (_COLUMNS, *rows)) for place in range(len(_COLUMNS))]
    head, *lines = (_aligned(row, widths)[:width].rstrip() for row in (_COLUMNS, *rows))
    return "\n".join([colour(paint.BOLD, head), *(emphasized(line, colour) for line in lines)])


def _row(status: Mapping[str, Any]) -> tuple[str, ...]:
    state = status.get("state", {})
    answers = status.get("counters", {}).get("answers", {})
    outcomes = [(name, count) for found in answers.values() for name, count in found.items()]
    device = status.get("device", {})
    values = (
        status.get("instance", ""),
        status.get("phase", ""),
        status.get("isolation", {}).get("verdict", ""),
        state.get("mac", ""),
        state.get("pairs", ""),
        sum(count for name, count in outcomes if name != "late"),
        sum(count for name, count in outcomes if name not in ("ok", "late")),
        sum(count for name, count in outcomes if name == "expired"),
        f"{state.get('digest', '')}{' UNCERTAIN' if state.get('uncertain') else ''}",
        device.get("path") or device.get("kind", ""),
    )
    return tuple(printable(str(value)) for value in values)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = zip(_COLUMNS, row, widths, strict=True)
    return "  ".join(cell.rjust(size) if name in _NUMBERS else cell.ljust(size) for name, cell, size in cells)
