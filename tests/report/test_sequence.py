"""Which lines are missing."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from cvqd.report.line import Line
from cvqd.report.sequence import OPEN, Sequence
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
