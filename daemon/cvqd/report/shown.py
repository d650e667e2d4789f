"""How a move is named and which moves are shown whole, the same in text and on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvqd.report.move import Move


def route(move: Move) -> str:
    """``vm0: simulator → spare``."""
    source, target = move.source or "?", move.target or "?"
    if move.kind == "migration":
        return f"{source} → {target}"
    return f"{move.line.instance}: {source} → {target}{', dry' if move.kind == 'dry' else ''}"


def when(move: Move) -> str:
    """Date and time to the millisecond, UTC."""
    return move.line.ts[:23].replace("T", " ")


#: up to this many moves are all shown whole
_FEW: Final = 3


def in_detail(moves: Sequence[Move], most: int) -> list[Move]:
    """At most ``most`` moves, in order: all of a few, else the longest blackout and those not well."""
    if len(moves) <= min(most, _FEW):
        return list(moves)
    worst = max(moves, key=_blackout)
    unwell = [move for move in moves if move is not worst and move.verdict not in ("well", "half")]
    return sorted([worst, *unwell[: most - 1]], key=moves.index)


def longest(moves: Sequence[Move], most: int) -> list[Move]:
    """At most ``most`` moves, in order: those in detail, filled up with the longest blackouts."""
    chosen = {move.number for move in in_detail(moves, most)}
    for move in sorted(moves, key=_blackout, reverse=True):
        if len(chosen) >= most:
            break
        chosen.add(move.number)
    return [move for move in moves if move.number in chosen]


def _blackout(move: Move) -> int:
    return move.blackout_us or 0
