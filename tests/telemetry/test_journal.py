"""Notes that wait: who goes before them and for how long."""

from __future__ import annotations

import sys

from cvqd.core.queues.guest_queue import Chain
from cvqd.telemetry.journal import BACKLOG, BACKLOG_BYTES, Journal, Pending
from cvqd.testing.events import EventRecorder
from cvqd.wire.net_control import OK, VlanAdd


def noted(count: int, data: bytes = VlanAdd(1).encode()) -> tuple[Journal, EventRecorder]:
    log = EventRecorder()
    journal = Journal(log)
    for number in range(count):
        pending = Pending(number, Chain(0), data, 1.0)
        pending.command, pending.ack = VlanAdd(1), OK
        journal.answered(pending)
    return journal, log


def told(log: EventRecorder) -> list[object]:
    return [event.fields["command_id"] for event in log.events]


def test_telling_stops_when_interrupted_and_goes_on_in_order():
    journal, log = noted(5)
    answers = iter([False, True])
    journal.tell(lambda: next(answers))
    assert told(log) == [0, 1]
    journal.tell(lambda: True)
    assert told(log) == [0, 1, 2], "however busy the guest is, the log gets on"
    journal.tell()
    assert told(log) == [0, 1, 2, 3, 4]
    assert journal.answers["vlan.add", "ok"] == 5


def test_a_guest_that_never_pauses_cannot_make_notes_pile_up():
    journal, log = noted(BACKLOG + 100)
    journal.tell(lambda: True)
    assert told(log) == list(range(101))
    journal.tell(lambda: True)
    assert len(log.events) == 102


def test_long_commands_pile_up_no_more_than_short_ones():
    size = BACKLOG_BYTES // 64
    journal, log = noted(66, bytes(size))
    assert journal.behind
    journal.tell(lambda: True)
    assert told(log) == [0, 1, 2]
    assert not journal.behind


def test_what_status_shows_of_a_command_does_not_keep_its_bytes():
    data = bytes(64 << 10)
    before = sys.getrefcount(data)
    journal, _ = noted(3, data)
    journal.tell()
    assert [(each.command_id, each.outcome) for each in journal.recent] == [(0, "ok"), (1, "ok"), (2, "ok")]
    assert sys.getrefcount(data) == before
