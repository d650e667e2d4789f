"""The picture of many moves: each blackout a dot in order of time, and their distribution at the side."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Final

from cvqd.report.markup import Markup, element
from cvqd.report.scale import duration, mark, marks, plural
from cvqd.report.timeline import colour

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cvqd.report.blackout import Distribution
    from cvqd.report.move import Move

WIDTH: Final = 960
HEIGHT: Final = 240
_LEFT, _RIGHT = 84, 730
_BARS, _END = 742, 846
_TOP, _BOTTOM = 34, 214
_BINS: Final = 24
#: px between two labels
_LINE: Final = 13
#: moves whose blackouts are drawn phase by phase
_COLUMNS: Final = 160
#: beyond this many medians a linear scale would flatten everything else
_CROOKED: Final = 8


class _Height:
    """µs to px; logarithmic where the longest is far from the rest."""

    def __init__(self, blackouts: Distribution) -> None:
        self.crooked = blackouts.most > _CROOKED * max(blackouts.median, 1)
        self.least = max(blackouts.least, 1) * 0.7 if self.crooked else 0
        self.most = blackouts.most * (1.4 if self.crooked else 1.08) + 1

    def share(self, us: float) -> float:
        """0 at the bottom, 1 at the top."""
        if self.crooked:
            return log(max(us, 1) / self.least) / log(self.most / self.least)
        return us / self.most

    def __call__(self, us: float) -> float:
        return _BOTTOM - self.share(us) * (_BOTTOM - _TOP)

    def marks(self) -> Iterator[float]:
        """Values at which the axis has a label."""
        if not self.crooked:
            yield from marks(0, self.most, 5)
            return
        power = 1
        while power <= self.most:
            yield from (power * factor for factor in (1, 3) if self.least <= power * factor <= self.most)
            power *= 10


def chart(moves: Sequence[Move], blackouts: Distribution) -> Markup:
    """An SVG element of ``WIDTH`` units; moves without a blackout stand at the bottom as a cross."""
    height = _Height(blackouts)
    ways = list(dict.fromkeys((move.source, move.target) for move in moves))
    return element(
        "svg",
        element("title", f"blackouts of {plural(len(moves), 'move')}"),
        element(
            "rect", x=_LEFT, y=_TOP, width=_RIGHT - _LEFT, height=_BOTTOM - _TOP, rx=4, class_="panel middle"
        ),
        element("rect", x=_BARS, y=_TOP, width=_END - _BARS, height=_BOTTOM - _TOP, rx=4, class_="panel"),
        *_scale(height),
        *_columns(moves, height),
        *_quantiles(blackouts, height),
        *_dots(moves, ways, height),
        *_bars(moves, height),
        *_legend(ways, _parts(moves) if _straight(moves, height) else ()),
        element("text", "moves in order of time", x=_RIGHT, y=_BOTTOM + 18, class_="note end"),
        element("text", "how many", x=(_BARS + _END) / 2, y=_BOTTOM + 18, class_="note centre"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        class_="chart",
        role="img",
    )


def _scale(height: _Height) -> Iterator[Markup]:
    for us in height.marks():
        y = height(us)
        yield element("line", x1=_LEFT, x2=_RIGHT, y1=y, y2=y, class_="grid")
        yield element("text", mark(us), x=_LEFT - 8, y=y + 4, class_="note end")


def _quantiles(blackouts: Distribution, height: _Height) -> Iterator[Markup]:
    taken: list[float] = []
    for name, us in (("median", blackouts.median), ("longest", blackouts.most), ("95 %", blackouts.p95)):
        y = height(us)
        yield element("line", x1=_LEFT, x2=_END + 4, y1=y, y2=y, class_="quantile")
        if all(abs(y - other) >= _LINE for other in taken):
            yield element("text", f"{name} {duration(us)}", x=_END + 8, y=y + 4, class_="note")
            taken.append(y)


def _straight(moves: Sequence[Move], height: _Height) -> bool:
    """Whether there are columns: parts add up on a linear scale only."""
    return not height.crooked and len(moves) <= _COLUMNS


def _parts(moves: Sequence[Move]) -> list[str]:
    """Phases that blackouts are made of, in their order."""
    names = dict.fromkeys(
        phase.name
        for move in moves
        if (dark := move.blackout_ns) is not None
        for phase in move.phases
        if min(phase.end_ns, dark[1]) > max(phase.begin_ns, dark[0])
    )
    return list(names)


def _columns(moves: Sequence[Move], height: _Height) -> Iterator[Markup]:
    """What each blackout is made of."""
    if not _straight(moves, height):
        return
    distance, wide = _distance(moves), max(min(_distance(moves) * 0.7, 14), 1.0)
    for number, move in enumerate(moves):
        dark = move.blackout_ns
        if dark is None:
            continue
        for phase in move.phases:
            begin, end = max(phase.begin_ns, dark[0]), min(phase.end_ns, dark[1])
            if begin < end:
                low, high = height((begin - dark[0]) / 1000), height((end - dark[0]) / 1000)
                x = _LEFT + 12 + number * distance - wide / 2
                yield element(
                    "rect",
                    x=x,
                    y=high,
                    width=wide,
                    height=low - high,
                    class_=f"part phase {colour(phase.name)}",
                )


def _dots(moves: Sequence[Move], ways: Sequence[tuple[str, str]], height: _Height) -> Iterator[Markup]:
    distance = _distance(moves)
    radius = max(min(4.5, distance / 2.2), 1.5)
    for number, move in enumerate(moves):
        x = _LEFT + 12 + number * distance
        name = f"move {move.number}, {move.source} → {move.target}: {move.verdict}"
        if move.blackout_us is None:
            shape = element("text", element("title", name), "✕", x=x, y=_BOTTOM - 4, class_="bad centre")
        else:
            title = element("title", f"{name}, blackout {duration(move.blackout_us)}")
            way = "one" if ways.index((move.source, move.target)) % 2 == 0 else "other"
            y = height(move.blackout_us)
            kind = way if move.verdict == "well" else "odd"
            shape = element("circle", title, cx=x, cy=y, r=radius, class_=f"dot {kind}")
        yield element("a", shape, href=f"#move-{move.number}")


def _distance(moves: Sequence[Move]) -> float:
    return (_RIGHT - _LEFT - 24) / max(len(moves) - 1, 1)


def _bars(moves: Sequence[Move], height: _Height) -> Iterator[Markup]:
    """A histogram that lies on its side, on the dots' scale."""
    bins = [0] * _BINS
    for move in moves:
        if move.blackout_us is not None:
            bins[min(int(height.share(move.blackout_us) * _BINS), _BINS - 1)] += 1
    thick = (_BOTTOM - _TOP) / _BINS
    for number, count in enumerate(bins):
        if count:
            yield element(
                "rect",
                element("title", plural(count, "move")),
                x=_BARS,
                y=_BOTTOM - (number + 1) * thick + 0.5,
                width=(_END - _BARS - 6) * count / max(bins),
                height=thick - 1,
                rx=1.5,
                class_="bar",
            )


def _legend(ways: Sequence[tuple[str, str]], parts: Sequence[str]) -> Iterator[Markup]:
    """Who moved where, below the moves; above them what the columns are made of."""
    x = float(_LEFT)
    for number, (source, target) in enumerate(ways[:2]):
        text = f"{source} → {target}"[:30]
        dot = "dot one" if number == 0 else "dot other"
        yield element("circle", cx=x + 5, cy=_BOTTOM + 14, r=4.5, class_=dot)
        yield element("text", text, x=x + 16, y=_BOTTOM + 18, class_="note")
        x += 40 + 7 * len(text)
    x = float(_RIGHT)
    for name in reversed(parts):
        yield element("text", name, x=x, y=18, class_="note end")
        x -= 16 + 6.4 * len(name)
        yield element("rect", x=x, y=9, width=9, height=9, rx=2, class_=f"part phase {colour(name)}")
        x -= 10
