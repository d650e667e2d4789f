"""The report for programs: keys that stay, times in µs, text as the log has it.

Keys are added, never renamed; ``schema`` would change if one had to go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypedDict

if TYPE_CHECKING:
    from cvqd.report.anomaly import Anomaly
    from cvqd.report.findings import Findings
    from cvqd.report.line import Line
    from cvqd.report.move import Move, Tick
    from cvqd.report.reader import LogFile
    from cvqd.report.rehearsal import Rehearsal
    from cvqd.report.run_log import RunLog

SCHEMA: Final = 1


class PlaceReport(TypedDict):
    """A line: ``number`` counts from 1."""

    file: str
    line: int
    ts: str


class FileReport(TypedDict):
    """A log; all counts are of lines, ``cut`` says why reading ended early."""

    file: str
    lines: int
    events: int
    torn: int
    foreign: int
    cut: str


class RunReport(TypedDict):
    """One life of a daemon; ``end`` is stopped, failed, crashed or open, ``begins_at`` its first ``seq``."""

    run_id: str
    instance: str
    first: PlaceReport
    last: PlaceReport
    end: str
    lines: int
    begins_at: int
    missing: int
    dropped: int
    repeated: int
    limited: dict[str, int]
    clock_back: int
    commands: dict[str, int]


class PhaseReport(TypedDict):
    """``begin_us`` is from the begin of the move."""

    phase: str
    begin_us: int
    elapsed_us: int


class CommandReport(TypedDict):
    """A guest's command; ``at_us`` is from the begin of the move, negative before it."""

    at_us: int
    command: str
    outcome: str
    elapsed_us: int | None


class MoveReport(TypedDict):
    """One move; what no line tells is null or empty.

    ``kind`` is switchover, dry or migration; ``verdict`` well, odd, failed, unfinished or half;
    ``commands_replayed`` how many commands put the state into the target.
    """

    number: int
    kind: str
    move: str
    verdict: str
    instance: str
    run_id: str
    rehearsal: str
    place: PlaceReport
    source: str
    target: str
    elapsed_us: int
    blackout_us: int | None
    phases: list[PhaseReport]
    commands_replayed: int | None
    digest_before: str
    digest_after: str
    rings_lost: list[int]
    failed_phase: str
    reason: str
    guest_on: str
    clock: str
    commands_before: list[CommandReport]
    commands_during: list[CommandReport]
    commands_after: list[CommandReport]
    anomalies: list[str]


class AnomalyReport(TypedDict):
    """``kind`` is one of ``anomaly.KINDS``; ``move`` a move's number or null."""

    kind: str
    text: str
    instance: str
    run_id: str
    place: PlaceReport
    move: int | None


class RehearsalReport(TypedDict):
    """What was asked for, and the daemon's own verdict; ``moves`` and ``failed`` are null without an end."""

    rehearsal: str
    instance: str
    place: PlaceReport
    to: str
    times: int | None
    back: bool
    dry: bool
    moves: int | None
    failed: int | None
    verdict: str


class Report(TypedDict):
    """The whole; ``moves`` may hold the latest only, ``verdicts`` counts them all."""

    schema: int
    verdict: str
    well: bool
    files: list[FileReport]
    runs: list[RunReport]
    rehearsals: list[RehearsalReport]
    verdicts: dict[str, int]
    blackout_us: dict[str, int] | None
    moves: list[MoveReport]
    anomaly_counts: dict[str, int]
    anomalies: list[AnomalyReport]


def report(findings: Findings) -> Report:
    """Everything that was found."""
    blackouts = findings.blackouts
    return {
        "schema": SCHEMA,
        "verdict": findings.verdict,
        "well": findings.well,
        "files": [_file(file) for file in findings.files],
        "runs": [_run(run) for run in findings.runs],
        "rehearsals": [_rehearsal(rehearsal) for rehearsal in findings.rehearsals],
        "verdicts": dict(findings.verdicts),
        "blackout_us": None if blackouts is None else blackouts._asdict(),
        "moves": [_move(move) for move in findings.moves],
        "anomaly_counts": dict(findings.anomalies.counts),
        "anomalies": [_anomaly(anomaly) for anomaly in findings.anomalies.kept()],
    }


def _place(line: Line) -> PlaceReport:
    return {"file": line.file, "line": line.number, "ts": line.ts}


def _file(file: LogFile) -> FileReport:
    return {
        "file": file.name,
        "lines": file.lines,
        "events": file.events,
        "torn": file.torn,
        "foreign": file.foreign,
        "cut": file.cut,
    }


def _run(run: RunLog) -> RunReport:
    return {
        "run_id": run.run_id,
        "instance": run.instance,
        "first": _place(run.first),
        "last": _place(run.last),
        "end": run.end,
        "lines": run.lines,
        "begins_at": run.sequence.first,
        "missing": run.missing,
        "dropped": run.sequence.dropped,
        "repeated": run.sequence.repeated,
        "limited": dict(run.limited),
        "clock_back": run.clock_back,
        "commands": dict(run.commands),
    }


def _rehearsal(rehearsal: Rehearsal) -> RehearsalReport:
    return {
        "rehearsal": rehearsal.name,
        "instance": rehearsal.line.instance,
        "place": _place(rehearsal.line),
        "to": rehearsal.to,
        "times": rehearsal.times,
        "back": rehearsal.back,
        "dry": rehearsal.dry,
        "moves": rehearsal.moves,
        "failed": rehearsal.failed,
        "verdict": rehearsal.verdict,
    }


def _move(move: Move) -> MoveReport:
    begin, _ = move.span_ns
    before, during, after = move.commands()

    def commands(ticks: list[Tick]) -> list[CommandReport]:
        return [
            {
                "at_us": (tick.mono_ns - begin) // 1000,
                "command": tick.command,
                "outcome": tick.outcome,
                "elapsed_us": tick.elapsed_us,
            }
            for tick in ticks
        ]

    return {
        "number": move.number,
        "kind": move.kind,
        "move": move.name,
        "verdict": move.verdict,
        "instance": move.line.instance,
        "run_id": move.line.run_id,
        "rehearsal": move.rehearsal,
        "place": _place(move.line),
        "source": move.source,
        "target": move.target,
        "elapsed_us": move.elapsed_us,
        "blackout_us": move.blackout_us,
        "phases": [
            {"phase": name, "begin_us": (end - begin) // 1000 - elapsed, "elapsed_us": elapsed}
            for name, end, elapsed in move.phases
        ],
        "commands_replayed": move.replayed,
        "digest_before": move.digest_before,
        "digest_after": move.digest_after,
        "rings_lost": sorted(move.lost_rings),
        "failed_phase": move.failed_phase,
        "reason": move.reason,
        "guest_on": move.guest_on,
        "clock": move.clock,
        "commands_before": commands(before),
        "commands_during": commands(during),
        "commands_after": commands(after),
        "anomalies": list(move.anomalies),
    }


def _anomaly(anomaly: Anomaly) -> AnomalyReport:
    place = anomaly.place
    return {
        "kind": anomaly.kind,
        "text": anomaly.text,
        "instance": anomaly.instance,
        "run_id": anomaly.run_id,
        "place": {"file": place.file, "line": place.number, "ts": anomaly.ts},
        "move": anomaly.move,
    }
