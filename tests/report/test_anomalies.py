"""Each oddity is found where it is, with its place, and not where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cvqd.report.anomaly import KEPT
from kit.report_logs import Daemon, Host, found, migrated, rehearsed, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def odd(directory: Path, *logs: Daemon | list[str]) -> list[tuple[str, int, str]]:
    """Kind, line and text of every anomaly."""
    findings = found(*written(directory, *logs))
    return [(one.kind, one.place.number, one.text) for one in findings.anomalies.kept()]


def daemon_at_work(**options: Any) -> Daemon:
    daemon = Daemon(**options)
    daemon.started()
    daemon.command(debug=True)
    return daemon


def test_a_daemon_that_does_its_work_is_not_odd(tmp_path):
    daemon = daemon_at_work()
    daemon.move()
    daemon.command(debug=True)
    daemon.stopped()
    assert odd(tmp_path, daemon) == []
    assert odd(tmp_path, rehearsed(10)) == []
    assert odd(tmp_path, *migrated()) == []


def test_a_gap(tmp_path):
    daemon = daemon_at_work()
    del daemon.lines[2:4]
    assert odd(tmp_path, daemon) == [("seq.gap", 3, "2 lines missing: seq 3 to 4")]


def test_a_gap_that_the_daemon_explains(tmp_path):
    daemon = daemon_at_work()
    for _ in range(4):
        daemon.command()
    del daemon.lines[-4:]
    daemon.emit("log.dropped", lines=4)
    daemon.command()
    findings = found(*written(tmp_path, daemon))
    assert findings.well
    assert findings.runs[0].sequence.dropped == 4
    del daemon.lines[-1]
    daemon.emit("service.stopped")
    assert [kind for kind, _, _ in odd(tmp_path, daemon)] == ["seq.gap"]


def test_a_rotated_log_has_no_gap_in_any_order(tmp_path):
    daemon = daemon_at_work()
    for _ in range(30):
        daemon.command()
    first, second, third = daemon.lines[:10], daemon.lines[10:20], daemon.lines[20:]
    assert odd(tmp_path, third, first, second) == []
    assert odd(tmp_path, third) == []
    assert odd(tmp_path, first, third) == [("seq.gap", 1, "10 lines missing: seq 11 to 20")]


def test_an_expired_command(tmp_path):
    daemon = daemon_at_work()
    daemon.emit("cvq.command.received", command_id=9, command="mac.addr_set", bytes=8)
    daemon.emit("cvq.command.expired", command_id=9, command="mac.addr_set", elapsed_us=1_000_000)
    assert odd(tmp_path, daemon) == [
        ("command.expired", 8, "mac.addr_set had no answer after 1000 ms; the guest got ERR")
    ]


def unanswered(daemon: Daemon) -> int:
    daemon.emit("cvq.command.received", command_id=9, command="mac.addr_set", bytes=8)
    daemon.command(debug=True)
    return len(daemon.lines) - 3


@pytest.mark.parametrize(
    ("ends", "why"),
    [
        (lambda daemon: daemon.emit("device.stopped", how="reset", reason="x"), "and the device was stopped"),
        (lambda daemon: daemon.emit("service.stopped"), "and the daemon's log ends"),
        (lambda daemon: (daemon.host.passes(61_000_000), daemon.command()), "and the daemon's log ends"),
    ],
    ids=["device", "daemon", "time"],
)
def test_a_command_without_an_answer(tmp_path, ends: Callable[[Daemon], object], why):
    daemon = daemon_at_work()
    number = unanswered(daemon)
    ends(daemon)
    assert odd(tmp_path, daemon) == [("command.unanswered", number, f"mac.addr_set (9) has no answer {why}")]


def test_a_command_that_may_still_be_answered_or_was_in_lines_that_are_missing(tmp_path):
    young = daemon_at_work()
    unanswered(young)
    assert odd(tmp_path, young) == []
    limited = daemon_at_work()
    unanswered(limited)
    limited.emit("log.limited", of="cvq.command.acked", lines=1)
    limited.stopped()
    assert odd(tmp_path, limited) == []


@pytest.mark.parametrize(("seconds", "claimed"), [(1, False), (4, True)])
def test_an_answer_that_was_left_out_may_be_told_a_second_after_the_device_stopped(
    tmp_path, seconds, claimed
):
    daemon = daemon_at_work()
    number = unanswered(daemon)
    daemon.emit("device.stopped", how="reset", reason="x")
    daemon.host.passes(seconds * 1_000_000)
    daemon.emit("service.reloaded", changed=[])
    daemon.emit("log.limited", of="cvq.command.acked", lines=1)
    daemon.stopped()
    claim = ("command.unanswered", number, "mac.addr_set (9) has no answer and the device was stopped")
    assert odd(tmp_path, daemon) == [claim] * claimed


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("cvq.command.refused", {"command": "mac.addr_set", "reason": "r", "detail": "d"}),
        ("cvq.chain.malformed", {"reason": "chain.loop", "detail": "d"}),
    ],
)
def test_a_refusal_is_an_answer(tmp_path, event, fields):
    daemon = daemon_at_work()
    daemon.emit("cvq.command.received", command_id=9, command="mac.addr_set", bytes=8)
    daemon.emit(event, command_id=9, **fields)
    daemon.stopped()
    assert odd(tmp_path, daemon) == []


def test_unequal_digests(tmp_path):
    daemon = daemon_at_work()
    daemon.move(digests=("aaaa", "bbbb"))
    assert odd(tmp_path, daemon) == [("digest.unequal", len(daemon.lines), "aaaa before, bbbb after")]
    assert [kind for kind, _, _ in odd(tmp_path, *migrated(digests=("aaaa", "bbbb")))] == ["digest.unequal"]


def test_a_queue_that_did_not_come_back(tmp_path):
    source, target = migrated()
    target.lines = [line.replace('"rings":[0,1,2]', '"rings":[0,1]') for line in target.lines]
    assert [(kind, text) for kind, _, text in odd(tmp_path, source, target)] == [
        ("queue.lost", "did not come back: ring 2")
    ]
    daemon = daemon_at_work()
    daemon.move(ends=False)
    daemon.runs((0, 1))
    daemon.emit(
        "switchover.finished",
        move="1",
        kind="switchover",
        source="simulator",
        target="spare",
        blackout_us=1,
        commands=1,
        digest_before="a",
        digest_after="a",
    )
    assert [text for _, _, text in odd(tmp_path, daemon)] == ["did not come back: ring 2"]


def test_fewer_rings_after_a_driver_started_anew_are_its_own_choice(tmp_path):
    daemon = daemon_at_work()
    daemon.emit("device.stopped", how="reset", reason="x")
    daemon.emit("state.reset", reason="new", digest="a")
    daemon.runs((0, 1))
    assert odd(tmp_path, daemon) == []


def test_a_move_without_an_end(tmp_path):
    daemon = daemon_at_work()
    daemon.move(ends=False)
    daemon.command()
    assert odd(tmp_path, daemon) == [
        ("move.unfinished", len(daemon.lines) - 1, "no line tells how it ended; start was the last phase")
    ]
    source, target = migrated()
    del target.lines[-6:]
    assert [kind for kind, _, _ in odd(tmp_path, source, target)] == ["move.unfinished"]


def test_a_move_that_failed(tmp_path):
    daemon = daemon_at_work()
    daemon.move(fails_in="indices")
    assert odd(tmp_path, daemon) == [
        (
            "move.failed",
            len(daemon.lines),
            "in indices: EIO from the device; the guest is on the source",
        )
    ]


@pytest.mark.parametrize(
    ("place", "where"), [("neither", "nowhere until its next start"), ("target", "target")]
)
def test_a_move_that_failed_says_where_the_guest_is(tmp_path, place, where):
    daemon = daemon_at_work()
    daemon.move(fails_in="indices")
    daemon.lines[-1] = daemon.lines[-1].replace('"guest_on":"source"', f'"guest_on":"{place}"')
    ((_, _, text),) = odd(tmp_path, daemon)
    assert text.endswith(where)


def test_state_that_the_destination_gave_up(tmp_path):
    source, target = migrated()
    del target.lines[2:]
    target.seq = 2
    target.emit("snapshot.unused", digest="81fa90c2", reason="the driver started over")
    target.emit("state.reset", reason="new", digest="a")
    target.runs()
    assert [(kind, text) for kind, _, text in odd(tmp_path, source, target)] == [
        ("move.failed", "in set up: the driver started over")
    ]


def test_state_that_was_refused(tmp_path):
    daemon = daemon_at_work()
    daemon.emit("snapshot.refused", reason="cut short", how="front-end")
    daemon.emit("snapshot.refused", reason="malformed", how="operator")
    assert odd(tmp_path, daemon) == [("snapshot.refused", 7, "cut short")]


def test_a_guest_that_came_back_to_its_source_because_nobody_took_it(tmp_path):
    source, _ = migrated()
    del source.lines[-3:]
    source.seq -= 3
    returned = list(source.lines)
    source.runs()
    ((kind, number, text),) = odd(tmp_path, source)
    assert (kind, number) == ("move.failed", len(source.lines))
    assert "the guest is on the source" in text
    source.lines, source.seq = returned, source.seq - 1
    source.emit("state.reset", reason="new", digest="a")
    source.runs()
    assert odd(tmp_path, source) == []


def moved(*blackouts_ms: float, back: bool = False) -> Daemon:
    daemon = daemon_at_work()
    for number, ms in enumerate(blackouts_ms):
        ends = ("spare", "simulator") if back and number % 2 else ("simulator", "spare")
        daemon.move(str(number), source=ends[0], target=ends[1], blackout_us=int(ms * 1000))
    return daemon


@pytest.mark.parametrize(
    ("blackouts", "long"),
    [
        ((20, 21, 19, 20, 65), 1),
        ((20, 21, 19, 20, 60), 0),
        ((1, 1, 1, 1, 10.9), 0),
        ((1, 1, 1, 1, 11.1), 1),
        ((20, 21, 20, 65), 0),
    ],
    ids=["far", "three times", "less than 10 ms more", "more", "too few to say"],
)
def test_a_blackout_far_longer_than_the_others(tmp_path, blackouts, long):
    kinds = [kind for kind, _, _ in odd(tmp_path, moved(*blackouts))]
    assert kinds == ["blackout.long"] * long


def test_two_devices_of_different_speed_are_not_odd(tmp_path):
    assert odd(tmp_path, moved(*[1, 50] * 6, back=True)) == []


def test_a_crash(tmp_path):
    daemon = daemon_at_work()
    after = Daemon(daemon.host, run_id="next", lines=daemon.lines)
    after.started()
    assert odd(tmp_path, daemon) == [("daemon.crashed", 6, "ended without a word; the next run begins")]


def test_a_command_that_a_crash_left_without_an_answer(tmp_path):
    daemon = daemon_at_work()
    unanswered(daemon)
    Daemon(daemon.host, run_id="next", lines=daemon.lines).started()
    assert [kind for kind, _, _ in odd(tmp_path, daemon)] == ["daemon.crashed", "command.unanswered"]


def test_a_crash_across_a_rotation(tmp_path):
    daemon = daemon_at_work()
    after = Daemon(daemon.host, run_id="next")
    after.started()
    (tmp_path / "vm0.log.1").write_text("\n".join(daemon.lines))
    (tmp_path / "vm0.log").write_text("\n".join(after.lines))
    findings = found(tmp_path / "vm0.log", tmp_path / "vm0.log.1")
    assert [one.kind for one in findings.anomalies.kept()] == ["daemon.crashed"]


def test_a_restart_another_instance_or_another_host_is_no_crash(tmp_path):
    daemon = daemon_at_work()
    daemon.stopped()
    Daemon(daemon.host, run_id="next", lines=daemon.lines).started()
    assert odd(tmp_path, daemon) == []
    first = daemon_at_work()
    other = Daemon(first.host, run_id="other", instance="vm1", lines=first.lines)
    other.started()
    assert odd(tmp_path, first) == []
    assert odd(tmp_path, daemon_at_work(), daemon_at_work(run_id="other", host=Host(2000))) == []


def test_two_daemons_of_one_name_that_live_at_once_did_not_crash(tmp_path):
    one = daemon_at_work()
    Daemon(one.host, run_id="other", lines=one.lines).started()
    one.host.passes(5000)
    one.command()
    assert odd(tmp_path, one) == []


def test_a_daemon_that_failed(tmp_path):
    daemon = daemon_at_work()
    daemon.emit("service.failed", blame="DeviceError", reason="gone", exit_code=69)
    Daemon(daemon.host, run_id="next", lines=daemon.lines).started()
    assert odd(tmp_path, daemon) == [("daemon.failed", 7, "DeviceError: gone; exit code 69")]


def test_normal_life_is_counted_and_not_odd(tmp_path):
    daemon = daemon_at_work()
    daemon.host.wall_us -= 90_000_000
    daemon.command()
    daemon.emit("log.limited", of="state.changed", lines=70)
    daemon.lines.append(daemon.lines[3])
    daemon.lines.append("a foreign line")
    findings = found(*written(tmp_path, "\n".join([*daemon.lines, '{"schema":1,"ts":"2026']).encode()))
    assert findings.well
    run, file = findings.runs[0], findings.files[0]
    assert (run.clock_back, run.limited.total(), run.sequence.repeated) == (1, 70, 1)
    assert (file.foreign, file.torn) == (1, 1)


def test_of_very_many_anomalies_the_first_are_told_and_all_are_counted(tmp_path):
    daemon = daemon_at_work()
    for number in range(KEPT + 50):
        daemon.emit("cvq.command.expired", command_id=number, command="mac.addr_set", elapsed_us=1)
    findings = found(*written(tmp_path, daemon))
    assert len(findings.anomalies.kept()) == KEPT
    assert (findings.anomalies.counts, findings.anomalies.left_out) == ({"command.expired": KEPT + 50}, 50)
