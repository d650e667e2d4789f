"""The picture of one move: phases one below the other, the blackout across them, commands at the edges.

Three panels side by side.  The middle one is the move, to scale.  Those at its
sides hold the guest's commands before and after, each on a scale of its own:
a move takes milliseconds, a guest may be silent for minutes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.report.markup import Markup, element
from cvqd.report.move import PHASES
from cvqd.report.scale import MINUS, duration, mark, marks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cvqd.report.move import Move, Phase, Tick

WIDTH: Final = 960
_NAMES: Final = 84  # where names end
_BEFORE: Final = (96, 214)
_MOVE: Final = (226, 822)
_AFTER: Final = (834, 952)
_TOP: Final = 34
_COMMANDS: Final = 30
_ROW: Final = 26
_BAR: Final = 14
_FOOT: Final = 30
#: px that a bar's duration takes beside it
_LABEL: Final = 62


class _Scale:
    """ns to px."""

    def __init__(self, ns: tuple[int, int], px: tuple[int, int]) -> None:
        self.begin, self.end = ns
        self.left, self.right = px
        self._per_ns = (self.right - self.left) / max(self.end - self.begin, 1)

    def __call__(self, ns: int) -> float:
        return self.left + (ns - self.begin) * self._per_ns


def timeline(move: Move) -> Markup:
    """An SVG element of ``WIDTH`` units; its colours are classes of ``picture.css``."""
    rows = _rows(move)
    bottom = _TOP + _COMMANDS + _ROW * len(rows)
    height = bottom + _FOOT
    begin, end = move.span_ns
    scale = _Scale((begin, end), (_MOVE[0] + 6, _MOVE[1] - _LABEL))
    said = f"{move.kind} {move.name}: " + ", ".join(
        f"{phase.name} {duration(phase.elapsed_us)}" for phase in move.phases
    )
    return element(
        "svg",
        element("title", said),
        *_panels(bottom),
        *_axis(scale, bottom),
        *_blackout(move, scale, bottom),
        *_commands(move, scale, len(rows), bottom),
        *_phases(move, rows, scale),
        viewBox=f"0 0 {WIDTH} {height}",
        class_="timeline",
        role="img",
    )


def _rows(move: Move) -> list[tuple[str, list[Phase]]]:
    """Phases by name in their order, with those that did not end."""
    known = PHASES[move.kind]
    names = [*known, *dict.fromkeys(phase.name for phase in move.phases if phase.name not in known)]
    return [(name, [phase for phase in move.phases if phase.name == name]) for name in names]


def _panels(bottom: int) -> Iterator[Markup]:
    for name, (left, right) in (("before", _BEFORE), ("", _MOVE), ("after", _AFTER)):
        yield element(
            "rect",
            x=left,
            y=_TOP,
            width=right - left,
            height=bottom - _TOP,
            rx=4,
            class_="panel" if name else "panel middle",
        )
        if name:
            yield element("text", name, x=(left + right) // 2, y=_TOP - 10, class_="note centre")


def _axis(scale: _Scale, bottom: int) -> Iterator[Markup]:
    for us in marks(0, (scale.end - scale.begin) / 1000, 7):
        x = scale(scale.begin + int(us * 1000))
        yield element("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="grid")
        yield element("text", mark(us), x=x, y=bottom + 18, class_="note centre")


def _blackout(move: Move, scale: _Scale, bottom: int) -> Iterator[Markup]:
    dark = move.blackout_ns
    if dark is None or move.blackout_us is None:
        return
    left, right = max(scale(dark[0]), scale.left), scale(dark[1])
    width = max(right - left, 1.0)
    yield element("rect", x=left, y=_TOP, width=width, height=bottom - _TOP, class_="blackout")
    yield element("path", d=f"M{left:.1f} {_TOP}v-6H{left + width:.1f}v6", class_="bracket")
    centre = min(max(left + width / 2, scale.left + 60), scale.right - 60)
    yield element(
        "text", f"blackout {duration(move.blackout_us)}", x=centre, y=_TOP - 12, class_="dark centre"
    )


def _commands(move: Move, scale: _Scale, rows: int, bottom: int) -> Iterator[Markup]:
    y = _TOP + _COMMANDS / 2
    yield element("text", "commands", x=_NAMES, y=y + 4, class_="name")
    begin, end = move.span_ns
    before, during, after = move.commands()
    sides = (
        (before, _Scale((before[0].mono_ns if before else begin, begin), (_BEFORE[0] + 6, _BEFORE[1] - 4))),
        (during, scale),
        (after, _Scale((end, after[-1].mono_ns if after else end), (_AFTER[0] + 4, _AFTER[1] - 6))),
    )
    for ticks, side in sides:
        yield from _ticks(ticks, side, y, begin)
    yield from _names(before[-rows:], _BEFORE[0] + 8)
    yield from _names(after[:rows], _AFTER[0] + 8)
    for ticks, ns, x in (
        (before, begin - sides[0][1].begin, _BEFORE[0]),
        (after, sides[2][1].end - end, _AFTER[1]),
    ):
        if ticks:
            sign = MINUS if x == _BEFORE[0] else "+"
            anchor = "note" if x == _BEFORE[0] else "note end"
            yield element("text", sign + duration(ns / 1000), x=x, y=bottom + 18, class_=anchor)


def _ticks(ticks: Sequence[Tick], scale: _Scale, y: float, begin: int) -> Iterator[Markup]:
    for tick in ticks:
        x = scale(tick.mono_ns)
        took = "" if tick.elapsed_us is None else f", took {duration(tick.elapsed_us)}"
        sign, at = (MINUS, begin - tick.mono_ns) if tick.mono_ns < begin else ("+", tick.mono_ns - begin)
        yield element(
            "line",
            element("title", f"{tick.command}: {tick.outcome}{took}, at {sign}{duration(at / 1000)}"),
            x1=x,
            x2=x,
            y1=y - 8,
            y2=y + 8,
            class_="tick" if tick.outcome == "ok" else "tick bad",
        )


def _names(ticks: Sequence[Tick], x: int) -> Iterator[Markup]:
    """The commands nearest to the move, by name, one to a row."""
    for number, tick in enumerate(ticks):
        y = _TOP + _COMMANDS + number * _ROW + 17
        bad = tick.outcome != "ok"
        text = f"✕ {tick.command}" if bad else tick.command
        yield element("text", text, x=x, y=y, class_="value bad" if bad else "value")


def _phases(move: Move, rows: Sequence[tuple[str, list[Phase]]], scale: _Scale) -> Iterator[Markup]:
    for number, (name, phases) in enumerate(rows):
        y = _TOP + _COMMANDS + number * _ROW
        yield element("text", name, x=_NAMES, y=y + 17, class_="name" if phases else "name faint")
        for phase in phases:
            left, right = max(scale(phase.begin_ns), scale.left), scale(phase.end_ns)
            width = max(right - left, 2.0)
            yield element(
                "rect",
                element("title", f"{name}: {duration(phase.elapsed_us)}"),
                x=left,
                y=y + (_ROW - _BAR) / 2,
                width=width,
                height=_BAR,
                rx=3,
                class_=f"phase {colour(name)}",
            )
        if phases:
            yield _beside(phases, scale, y + 17)
        if name == move.failed_phase and move.end_ns is not None:
            yield from _failure(move, scale, y)


def _failure(move: Move, scale: _Scale, y: float) -> Iterator[Markup]:
    """The phase that did not end, from the end of the one before it to the failure."""
    assert move.end_ns is not None
    left = scale(max((phase.end_ns for phase in move.phases), default=move.begin_ns))
    right = scale(move.end_ns)
    yield element(
        "rect",
        x=left,
        y=y + (_ROW - _BAR) / 2,
        width=max(right - left, 2.0),
        height=_BAR,
        rx=3,
        class_="failure",
    )
    yield element("text", "✕ failed", x=max(right, left + 2) + 7, y=y + 17, class_="bad")


def _beside(phases: Sequence[Phase], scale: _Scale, y: float) -> Markup:
    """How long the phase took, beside its bar."""
    text = duration(sum(phase.elapsed_us for phase in phases))
    left, right = scale(phases[0].begin_ns), scale(phases[-1].end_ns)
    return element("text", text, x=max(right, left + 2, scale.left) + 7, y=y, class_="value")


_COLOURS: Final = {
    "prepare": "calm",
    "suspend": "stop",
    "indices": "take",
    "snapshot": "take",
    "compare": "work",
    "replay": "work",
    "start": "go",
    "resume": "go",
    "save": "stop",
    "carry": "take",
    "set up": "calm",
}


def colour(name: str) -> str:
    """Class of a phase: what kind of thing happens in it."""
    return _COLOURS.get(name, "calm")
