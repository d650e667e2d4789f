"""The picture of a soak: memory, descriptors and commands per second of each instance, as one SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kit.soak_subject import Sample, Subject

_WIDTH: Final = 1000
_HEIGHT: Final = 170
_LEFT: Final = 70
_TOP: Final = 100
_GAP: Final = 50
_COLOURS: Final = ("#0b66c3", "#c2410c", "#15803d", "#7e22ce")
#: seconds over which commands are counted
_SPAN: Final = 5.0

Curve = list[tuple[float, float]]


def draw(subjects: Sequence[Subject]) -> str:
    """The file's text."""
    end = max((sample.at for subject in subjects for sample in subject.samples), default=1.0)
    panels: list[tuple[str, Callable[[Sequence[Sample]], Curve]]] = [
        ("resident memory, MB", lambda samples: [(sample.at, sample.memory) for sample in samples]),
        ("descriptors", lambda samples: [(sample.at, sample.descriptors) for sample in samples]),
        ("commands per second", _rate),
    ]
    parts = [_legend(subjects)]
    for place, (title, curve) in enumerate(panels):
        top = _TOP + place * (_HEIGHT + _GAP)
        parts.append(_panel(title, top, end, [curve(subject.samples) for subject in subjects]))
    bottom = _TOP + len(panels) * (_HEIGHT + _GAP)
    for place, subject in enumerate(subjects):
        parts.append(_marks(subject, bottom + 18 * place, end, _COLOURS[place % len(_COLOURS)]))
    height = bottom + 18 * len(subjects) + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 30} {height}"'
        ' font-family="sans-serif" font-size="13">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _rate(samples: Sequence[Sample]) -> Curve:
    found: Curve = []
    first = 0
    for sample in samples:
        while samples[first].at < sample.at - _SPAN:
            first += 1
        passed = sample.at - samples[first].at
        if passed:
            found.append((sample.at, (sample.commands - samples[first].commands) / passed))
    return found


def _panel(title: str, top: float, end: float, curves: Sequence[Curve]) -> str:
    most = _round_up(max((value for curve in curves for _, value in curve), default=1.0))
    parts = [f'<text x="{_LEFT}" y="{top - 8}" font-weight="bold">{title}</text>']
    for step in range(5):
        y = top + _HEIGHT * (1 - step / 4)
        parts += [
            f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{most * step / 4:g}</text>',
        ]
    for step in range(7):
        x = _LEFT + _WIDTH * step / 6
        minutes = f"{end * step / 360:.1f} min"
        parts.append(f'<text x="{x:.1f}" y="{top + _HEIGHT + 16}" text-anchor="middle">{minutes}</text>')
    for place, curve in enumerate(curves):
        # a line is not drawn where there was no daemon
        pieces: list[list[str]] = [[]]
        before = None
        for at, value in curve:
            if before is not None and at - before > 3:
                pieces.append([])
            before = at
            pieces[-1].append(f"{_LEFT + _WIDTH * at / end:.1f},{top + _HEIGHT * (1 - value / most):.1f}")
        parts += [
            f'<polyline points="{" ".join(piece)}" fill="none" stroke="{_COLOURS[place % len(_COLOURS)]}"'
            ' stroke-width="1.3"/>'
            for piece in pieces
        ]
    return "\n".join(parts)


def _marks(subject: Subject, y: float, end: float, colour: str) -> str:
    ticks = "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 10}" y2="{y + 2}" stroke="{colour}">'
        f"<title>{happening.what}</title></line>"
        for happening in subject.happenings
        for x in (_LEFT + _WIDTH * happening.at / end,)
    )
    return f'<text x="{_LEFT - 8}" y="{y}" text-anchor="end" fill="{colour}">{subject.name}</text>{ticks}'


def _legend(subjects: Sequence[Subject]) -> str:
    parts = []
    for place, subject in enumerate(subjects):
        counts: dict[str, int] = {}
        for happening in subject.happenings:
            counts[happening.what] = counts.get(happening.what, 0) + 1
        words = ", ".join([f"{subject.commands} commands", *(f"{what} {n}" for what, n in counts.items())])
        colour = _COLOURS[place % len(_COLOURS)]
        parts.append(
            f'<text x="{_LEFT}" y="{24 + 18 * place}" fill="{colour}">{subject.name}: {words}</text>'
        )
    return "\n".join(parts)


def _round_up(value: float) -> float:
    """To a number whose quarters are short."""
    unit = 1.0
    while True:
        for factor in (1, 2, 4, 8):
            if value <= unit * factor:
                return unit * factor
        unit *= 10
