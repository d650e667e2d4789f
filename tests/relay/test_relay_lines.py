"""What the relay tells the log: each step with its moment, and never while the guest waits."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import trio

from cvqd.relay import SILENCE
from cvqd.telemetry.journal import BACKLOG
from cvqd.wire.net_control import (
    MacAddrSet,
    VlanAdd,
)
from kit.relay_stage import OTHER, ScriptedDoorbells, Stage, run_until_over

if TYPE_CHECKING:
    import pytest


def test_the_log_tells_each_step_with_one_command_id():
    stage = Stage()
    stage.send(MacAddrSet(OTHER))
    stage.step(0)
    stage.device_obeys()
    stage.step(0)
    assert stage.log.names() == [
        "cvq.command.received",
        "cvq.command.forwarded",
        "cvq.command.acked",
        "state.changed",
    ]
    assert {event.fields["command_id"] for event in stage.log.events} == {1}
    moments = [event.mono_ns or 0 for event in stage.log.events]
    assert moments == sorted(moments)
    assert stage.log.of("state.changed")[0]["digest"] == stage.ledger.state.digest()


async def test_a_guest_that_kicks_again_is_served_before_the_lines_of_its_last_command():
    stage = Stage()
    told = []

    def the_device_answers_and_the_guest_kicks_again() -> list[int]:
        stage.device_obeys()
        stage.send(VlanAdd(1))
        return [1]

    def the_second_is_with_the_device() -> list[int]:
        told.append(len(stage.log.events))
        assert stage.device_obeys() == [VlanAdd(1)]
        doorbells.kicked = True
        return [1]

    def a_kick_cut_the_telling_short() -> list[int]:
        told.append(len(stage.log.events))
        return [1]

    doorbells = ScriptedDoorbells(
        the_device_answers_and_the_guest_kicks_again,
        the_second_is_with_the_device,
        a_kick_cut_the_telling_short,
    )
    stage.send(MacAddrSet(OTHER))
    await run_until_over(stage, doorbells)
    assert told == [0, 1]
    assert stage.answers() == [0, 0]
    assert [event.fields["command_id"] for event in stage.log.events] == [1, 1, 2, 2, 1, 1, 2, 2]


async def test_lines_that_wait_for_a_device_are_told_after_a_moment_of_silence():
    stage = Stage()
    told = []

    def nothing_rings() -> list[int]:
        told.append(stage.log.names())
        return []

    doorbells = ScriptedDoorbells(nothing_rings, nothing_rings)
    stage.send(MacAddrSet(OTHER))
    begun = trio.current_time()
    await run_until_over(stage, doorbells)
    assert told == [[], ["cvq.command.received", "cvq.command.forwarded"]]
    first, second = doorbells.until[:2]
    assert begun + SILENCE <= first < begun + 1
    assert second >= begun + 1, "then only the deadline is left to wait for"


async def test_a_guest_with_a_command_under_way_at_any_time_cannot_make_lines_pile_up():
    stage = Stage()

    def one_is_answered_and_the_next_is_there() -> list[int]:
        stage.device_obeys()
        stage.send(VlanAdd(1))
        assert len(stage.journal._notes) <= BACKLOG
        return [1]

    stage.send(VlanAdd(1))
    turns = BACKLOG // 2
    await run_until_over(stage, ScriptedDoorbells(*[one_is_answered_and_the_next_is_there] * turns))
    # each has three lines: received, forwarded, acknowledged
    assert 3 * turns - BACKLOG <= len(stage.log.events) < 3 * turns


def test_an_expired_line_tells_what_the_guest_saw_though_the_late_answer_is_there(
    monkeypatch: pytest.MonkeyPatch,
):
    moments = itertools.count(0, 1_000_000)
    monkeypatch.setattr("cvqd.telemetry.journal.monotonic_ns", lambda: next(moments))
    stage = Stage()
    stage.send(VlanAdd(1))
    stage.relay.step(0)
    [(chain, _)] = stage.device_takes()
    stage.relay.step(1)
    stage.device_gives(chain)
    stage.relay.step(2)
    stage.journal.tell()
    (expired,), (late,) = stage.log.of("cvq.command.expired"), stage.log.of("cvq.command.late")
    assert expired["elapsed_us"] < late["elapsed_us"]
