"""Moves read back from logs: inside one daemon, and from one to another."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from cvqd.report import book, migration
from cvqd.report.as_json import report
from kit.report_logs import PHASES, Daemon, found, migrated, rehearsed, written

if TYPE_CHECKING:
    from pathlib import Path

    from cvqd.report.findings import Findings

DARK = sum(PHASES.values()) - PHASES["prepare"]


def read(directory: Path, *logs: Daemon | list[str]) -> Findings:
    return found(*written(directory, *logs))


def test_a_switchover_with_its_phases_its_blackout_and_the_commands_around_it(tmp_path):
    daemon = Daemon()
    daemon.started()
    for _ in range(40):
        daemon.host.passes(1000)
        daemon.command()
    daemon.host.passes(1000)
    daemon.move("7f3a")
    for _ in range(3):
        daemon.host.passes(1000)
        daemon.command(ack=1)
    findings = read(tmp_path, daemon)
    assert findings.well
    assert findings.verdict == "1 move, well; longest blackout 1.84 ms"
    (move,) = findings.moves
    assert [(phase.name, phase.elapsed_us) for phase in move.phases] == list(PHASES.items())
    assert [(phase.begin_ns - move.begin_ns) // 1000 for phase in move.phases] == [0, 2460, 2770, 2794, 3974]
    assert (move.name, move.kind, move.source, move.target) == ("7f3a", "switchover", "simulator", "spare")
    assert (move.verdict, move.blackout_us, move.replayed) == ("well", DARK, 19)
    assert move.blackout_ns == (move.begin_ns + 2_460_000, move.begin_ns + 4_304_000)
    assert (move.digest_before, move.digest_after) == ("81fa90c2", "81fa90c2")
    before, during, after = move.commands()
    assert (len(before), len(during), len(after)) == (32, 0, 3)
    assert {tick.outcome for tick in before} == {"ok"}
    assert {tick.outcome for tick in after} == {"err"}
    assert (move.begin_ns - before[-1].mono_ns) // 1000 == 1000


def test_a_dry_move(tmp_path):
    daemon = Daemon()
    daemon.started()
    daemon.move(kind="dry", phases={"suspend": 300, "snapshot": 80, "compare": 10, "resume": 200})
    (move,) = read(tmp_path, daemon).moves
    assert (move.kind, move.verdict, move.blackout_us) == ("dry", "well", 590)
    assert move.blackout_ns == (move.begin_ns, move.begin_ns + 590_000)


def test_a_command_that_is_told_after_the_move_began_is_still_one_before_it(tmp_path):
    daemon = Daemon()
    daemon.started()
    daemon.host.passes(100)
    daemon.move()
    answered = (daemon.host.up_us - 5000) * 1000
    daemon.command()
    daemon.lines[-1] = daemon.lines[-1].replace(
        f'"mono_ns":{daemon.host.up_us * 1000}', f'"mono_ns":{answered}'
    )
    (move,) = read(tmp_path, daemon).moves
    assert [tick.mono_ns for tick in move.commands()[0]] == [answered]


def test_commands_of_one_moment_need_not_have_taken_a_time(tmp_path):
    daemon = Daemon()
    daemon.started()
    daemon.command(took_us=0)
    daemon.command(took_us=0)
    daemon.lines[-1] = daemon.lines[-1].replace('"elapsed_us":0', '"elapsed_us":null')
    daemon.move()
    (move,) = read(tmp_path, daemon).moves
    assert [tick.elapsed_us for tick in move.ticks] == [0, None]


def test_a_rehearsal_there_and_back(tmp_path):
    findings = read(tmp_path, rehearsed(100))
    assert findings.well
    assert findings.total == findings.verdicts["well"] == len(findings.moves) == 100
    assert {move.rehearsal for move in findings.moves} == {"r1"}
    (rehearsal,) = findings.rehearsals
    assert rehearsal.asked == "to spare and back, 100 times"
    assert rehearsal.outcome == "100 moves, 0 failed: passed"
    blackouts = findings.blackouts
    assert blackouts is not None
    assert blackouts.number == 100
    every = sorted(move.blackout_us or 0 for move in findings.moves)
    assert blackouts == (100, every[0], every[49], every[94], every[99])


def test_a_rehearsal_without_an_end_says_so(tmp_path):
    daemon = Daemon()
    daemon.emit("rehearsal.started", rehearsal="r1", to="spare", times=1, back=False, dry=False)
    (rehearsal,) = read(tmp_path, daemon).rehearsals
    assert rehearsal.asked == "to spare"
    assert rehearsal.outcome == "No line tells how it ended."


@pytest.mark.parametrize("skew_us", [0, 2_500_000, -2_500_000], ids=["one host", "ahead", "behind"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_migration_is_joined_from_both_sides_logs(tmp_path, skew_us, turned):
    logs = migrated(skew_us=skew_us)
    findings = read(tmp_path, *(logs[::-1] if turned else logs))
    assert findings.well
    (move,) = findings.moves
    assert (move.kind, move.verdict) == ("migration", "well")
    assert (move.source, move.target) == ("vm0 on vdpa0", "vm0 on vdpa1")
    assert [phase.name for phase in move.phases] == ["save", "carry", "set up", "replay", "start"]
    assert (move.digest_before, move.digest_after, move.replayed) == ("81fa90c2", "81fa90c2", 19)
    if skew_us:
        # a state does not arrive before it left, and nobody can know better
        least = 4200 + skew_us if skew_us > 0 else 2200
        assert abs((move.blackout_us or 0) - least) <= 1000
        assert move.clock.startswith("wall clocks of two hosts")
        assert ("behind" in move.clock) == (skew_us < 0)
    else:
        assert [phase.elapsed_us for phase in move.phases] == [400, 2000, 700, 600, 300]
        assert (move.blackout_us, move.clock) == (4200, "")
        before, _, after = move.commands()
        assert (len(before), len(after)) == (6, 4)


def test_a_guest_that_goes_there_and_back_with_one_state_makes_two_migrations(tmp_path):
    source, target = migrated()
    host = source.host
    target.host = host
    source.lines, source.seq = source.lines[:-3], source.seq - 3
    host.passes(5000)
    target.emit("device.stopped", how="suspend", reason="x")
    target.emit("snapshot.saved", digest="81fa90c2", bytes=4096, how="front-end")
    host.passes(1000)
    source.emit("snapshot.loaded", digest="81fa90c2", bytes=4096, how="front-end")
    source.emit("state.replayed", commands=3, digest="81fa90c2", elapsed_us=0)
    source.runs(elapsed_us=0)
    there, back = read(tmp_path, target, source).moves
    assert (there.source, there.target) == (back.target, back.source) == ("vm0 on vdpa0", "vm0 on vdpa1")
    assert (there.blackout_us, back.blackout_us) == (4200, 1000)


@pytest.mark.parametrize("side", [0, 1])
def test_one_side_alone_is_half_a_migration_and_no_anomaly(tmp_path, side):
    findings = read(tmp_path, migrated()[side])
    assert findings.well
    assert findings.verdict == "1 move; 1 seen from one side only"
    (move,) = findings.moves
    assert (move.verdict, move.blackout_us) == ("half", None)


def test_a_daemon_that_takes_its_own_state_back_is_no_pair(tmp_path):
    source, _ = migrated()
    del source.lines[-3:]
    source.seq -= 3
    source.emit("snapshot.loaded", digest="81fa90c2", bytes=4096, how="front-end")
    source.runs()
    assert [move.verdict for move in read(tmp_path, source).moves] == ["half", "half"]


def test_other_snapshots_are_no_moves(tmp_path):
    daemon = Daemon()
    daemon.started()
    daemon.emit("snapshot.saved", digest="81fa90c2", bytes=4096, how="operator")
    daemon.emit("snapshot.loaded", digest="81fa90c2", bytes=4096, how="operator")
    assert read(tmp_path, daemon).total == 0


def test_lines_of_one_move_may_come_in_any_order(tmp_path):
    daemon = Daemon()
    daemon.started()
    begin = len(daemon.lines)
    daemon.move(phases={"prepare": 2460, "suspend": 310, "start": 330})
    lines, reports = daemon.lines[begin:], []
    for order in permutations(lines):
        (move,) = report(read(tmp_path, [*daemon.lines[:begin], *order]))["moves"]
        del move["place"]
        reports.append(move)
    assert all(other == reports[0] for other in reports)
    assert reports[0]["verdict"] == "well"


def test_of_very_many_moves_the_good_old_ones_are_only_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "KEPT", 10)
    daemon = Daemon()
    daemon.started()
    for number in range(50):
        daemon.move(str(number), fails_in="replay" if number == 3 else "")
    findings = read(tmp_path, daemon)
    assert findings.verdicts == {"well": 49, "failed": 1}
    assert findings.blackouts is not None
    assert findings.blackouts.number == 49
    assert [move.number for move in findings.moves] == [4, *range(41, 51)]


def test_of_very_many_migrations_too(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "KEPT", 10)
    monkeypatch.setattr(migration, "WAITING", 10)
    source, target = Daemon(run_id="a"), Daemon(run_id="b")
    target.host = source.host
    for number in range(100):
        source.emit("snapshot.saved", digest=str(number), bytes=1, how="front-end")
        target.emit("snapshot.loaded", digest=str(number), bytes=1, how="front-end")
        target.runs(elapsed_us=0)
        source.host.passes(10_000)
    findings = read(tmp_path, source, target)
    assert findings.verdicts == {"well": 100}
    assert len(findings.moves) == 10
