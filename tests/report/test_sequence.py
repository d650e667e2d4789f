"""Which lines are missing."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from cvqd.report.in_flight import MOST, InFlight
from cvqd.report.line import Line
from cvqd.report.sequence import OPEN, Sequence
from cvqd.report.story import Story
from kit.report_logs import Daemon

HEADER = json.loads(Daemon().emit("service.stopped"))


def line(seq: int) -> Line:
    return Line("a", seq, HEADER | {"seq": seq})


def missing(sequence: Sequence) -> list[tuple[int, int]]:
    return sorted((gap.first, gap.last) for gap in sequence.settle())


@settings(deadline=None)
@given(st.permutations(range(1, 30)), st.sets(st.integers(2, 28)))
def test_every_number_that_never_comes_is_missing_in_any_order(order, lost):
    sequence = Sequence()
    for seq in order:
        if seq not in lost:
            assert sequence.take(line(seq))
            assert not sequence.take(line(seq))
    told = [seq for first, last in missing(sequence) for seq in range(first, last + 1)]
    assert told == sorted(lost)
    assert sequence.repeated == 29 - len(lost)


def test_a_log_that_begins_late_has_lost_nothing():
    sequence = Sequence()
    for seq in (700, 701, 699):
        sequence.take(line(seq))
    assert missing(sequence) == []
    assert sequence.first == 699


def test_gaps_of_a_log_that_is_read_from_its_end_are_settled_too():
    story, seen = Story(), 20 * OPEN
    story.feed(line(seq) for seq in range(2 * seen, 0, -2))
    (run,) = story._runs.values()
    assert not run.sequence.crowded
    assert story.conclude([]).anomalies.counts["seq.gap"] == seen - 1


def test_what_the_daemon_dropped_explains_the_gap_before():
    sequence = Sequence()
    for seq in (1, 2, 5, 9):
        sequence.take(line(seq))
    sequence.drop(3)
    assert missing(sequence) == [(3, 4)]
    sequence.take(line(20))
    sequence.drop(4)
    assert missing(sequence) == [(10, 15)]
    assert sequence.dropped == 7


def test_more_gaps_than_can_be_open_are_settled_oldest_first():
    sequence = Sequence()
    for seq in range(1, 2 * OPEN + 4, 2):
        sequence.take(line(seq))
    assert sequence.crowded
    assert len(sequence.settle(OPEN // 2)) == OPEN + 1 - OPEN // 2
    assert not sequence.crowded


def test_a_clock_that_stands_still_does_not_make_the_commands_of_ended_devices_pile_up():
    in_flight = InFlight()
    for command in range(5 * MOST):
        in_flight.received(Line("a", 1, HEADER | {"command_id": command}))
        in_flight.device_ended(0)
        assert len(in_flight._ended) <= 2 * MOST
