"""The report for a terminal: the verdict first, one screen for each move, everything aligned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.report.blackout import RULE
from cvqd.report.scale import MINUS, duration, plural
from cvqd.report.shown import in_detail, longest, route, when

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cvqd.report.anomaly import Anomaly
    from cvqd.report.findings import Findings
    from cvqd.report.move import Move, Tick

#: moves that get a screen of their own; rows of the table; runs; anomalies
SCREENS: Final = 3
ROWS: Final = 20
RUNS: Final = 10
ANOMALIES: Final = 30
_MARGIN: Final = 12
#: commands shown on each side of a move
_AROUND: Final = 5


def render(findings: Findings, width: int = 100) -> str:
    """Lines for a terminal of ``width`` columns (at least 80), without a final line break."""
    lines = [findings.verdict]
    for rehearsal in findings.rehearsals:
        name = f"rehearsal {rehearsal.name} of {rehearsal.line.instance}"
        lines.append(f"{name}: {rehearsal.asked}. {rehearsal.outcome}")
    if findings.total > 1:
        lines += ["", *_table(findings)]
    anomalies = findings.anomalies.kept()
    if anomalies:
        lines += ["", *_anomalies(anomalies, findings.anomalies.counts.total())]
    for move in in_detail(findings.moves, SCREENS):
        lines += ["", *_move(move, max(width, 80))]
    lines += ["", *_logs(findings)]
    return "\n".join(line.rstrip() for line in lines)


def _row(name: str, text: str) -> str:
    return f"  {name:<{_MARGIN - 2}}{text}"


def _table(findings: Findings) -> Iterator[str]:
    if findings.blackouts is not None:
        number, least, median, p95, most = findings.blackouts
        words = f"least {duration(least)}, median {duration(median)}, 95 % within {duration(p95)}"
        yield f"blackouts of {plural(number, 'move')}: {words}, longest {duration(most)}"
    moves = longest(findings.moves, ROWS)
    routes = max(len(route(move)) for move in moves)
    yield (
        f"{'':>5}  {'':<10}  {'from → to':<{routes}}  {'took':>8}  {'blackout':>8}  {'replayed':>8}  "
        f"{'digests':<8}  line"
    )
    for move in moves:
        blackout = "" if move.blackout_us is None else duration(move.blackout_us)
        replayed = "" if move.replayed is None else str(move.replayed)
        yield (
            f"{move.number:>5}  {move.verdict:<10}  {route(move):<{routes}}  {duration(move.elapsed_us):>8}  "
            f"{blackout:>8}  {replayed:>8}  {_equal(move):<8}  {_place(move)}"
        )
    if len(moves) < findings.total:
        yield f"{'…':>5}  {findings.total - len(moves)} more, with shorter blackouts"


def _move(move: Move, width: int) -> Iterator[str]:
    yield f"{move.verdict}: move {move.number}, {route(move)}"
    yield _row("when", f"{when(move)}, {move.kind} {move.name}, run {move.line.run_id}, {_place(move)}")
    took = f"took {duration(move.elapsed_us)}"
    if move.blackout_us is not None:
        took += f", blackout {duration(move.blackout_us)}"
    if move.replayed is not None:
        took += f", {plural(move.replayed, 'command')} replayed"
    yield _row("how long", took + (f"; times are from the {move.clock}" if move.clock else ""))
    if move.digest_before or move.digest_after:
        before, after = move.digest_before or "unknown", move.digest_after or "unknown"
        yield _row("digests", f"{before} before, {after} after: {_equal(move) or 'one is not known'}")
    if move.failure:
        yield _row("failed", move.failure)
    if move.lost_rings:
        yield _row("lost", f"ring {', '.join(map(str, sorted(move.lost_rings)))} ran before and not after")
    if "blackout.long" in move.anomalies:
        yield _row("long", f"the blackout is {RULE}")
    yield from _bars(move, width)
    before_, during, after_ = move.commands()
    begin, end = move.span_ns
    yield from _commands("before", before_[-_AROUND:], begin, len(before_))
    yield from _commands("during", during[:_AROUND], begin, len(during))
    yield from _commands("after", after_[:_AROUND], end, len(after_))


def _bars(move: Move, width: int) -> Iterator[str]:
    """Each phase as a bar on one scale, the blackout below."""
    begin, end = move.span_ns
    room = width - _MARGIN - 10
    spans = [(phase.name, phase.elapsed_us, phase.begin_ns, phase.end_ns, "█") for phase in move.phases]
    if move.blackout_ns is not None and move.blackout_us is not None:
        spans.append(("blackout", move.blackout_us, *move.blackout_ns, "░"))
    for name, us, left, right, fill in spans:
        first = max(round((left - begin) * room / max(end - begin, 1)), 0)
        last = max(round((right - begin) * room / max(end - begin, 1)), 0)
        bar = " " * min(first, room - 1) + (fill * (last - first) or "▏")
        yield _row(name, f"{duration(us):>8}  {bar}")


def _commands(name: str, ticks: Sequence[Tick], origin: int, count: int) -> Iterator[str]:
    for tick in ticks:
        away = abs(tick.mono_ns - origin) / 1000
        sign = MINUS if tick.mono_ns < origin else "+"
        took = "" if tick.elapsed_us is None else f"{duration(tick.elapsed_us):>8}"
        yield _row(name, f"{sign + duration(away):>10}  {tick.command:<20}  {tick.outcome:<8}{took}")
        name = ""
    if count > len(ticks) > 0:
        yield _row("", f"{'':>10}  of {count} that are known")


def _equal(move: Move) -> str:
    if not (move.digest_before and move.digest_after):
        return ""
    return "equal" if move.digest_before == move.digest_after else "UNEQUAL"


def _place(move: Move) -> str:
    return f"{move.line.file}:{move.line.number}"


def _anomalies(anomalies: Sequence[Anomaly], count: int) -> Iterator[str]:
    yield "anomalies"
    shown = anomalies[:ANOMALIES]
    places = [f"{found.place.file}:{found.place.number}" for found in shown]
    kinds = max(len(found.kind) for found in shown)
    longest = max(map(len, places))
    for found, place in zip(shown, places, strict=True):
        move = "" if found.move is None else f"move {found.move}: "
        text = f"{found.instance} {found.ts[11:23]}  {move}{found.text}"
        yield f"  {found.kind:<{kinds}}  {place:<{longest}}  {text}"
    if count > len(shown):
        yield f"  … {count - len(shown)} more"


def _logs(findings: Findings) -> Iterator[str]:
    yield "logs"
    for file in findings.files:
        yield f"  {file.name}: {file.summary}"
    for run in findings.runs[-RUNS:]:
        yield f"  run {run.run_id} of {run.instance}: {run.summary}"
    if len(findings.runs) > RUNS:
        yield f"  and {len(findings.runs) - RUNS} runs before"
