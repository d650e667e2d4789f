"""The relay step by step, between a ring in plain memory and a device that does what the test says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.core.state_keeper import NothingKept
from cvqd.core.tracked import TrackedState
from cvqd.wire.net_control import (
    AnnounceAck,
    CoalVqGet,
    MacAddrSet,
    RxMode,
    RxModeSet,
    VlanAdd,
    VqPairsSet,
)
from kit.relay_stage import MAC, OTHER, ScriptedDoorbells, Stage, run_until_over

if TYPE_CHECKING:
    from cvqd.core.ledger import Ledger


def test_a_batch_is_one_kick_and_one_call_and_keeps_the_guests_order():
    stage = Stage()
    stage.send(MacAddrSet(OTHER), RxModeSet(RxMode.PROMISC, 0), VlanAdd(5))
    stage.step(0)
    taken = stage.device_takes()
    assert [command for _, command in taken] == [MacAddrSet(OTHER), RxModeSet(RxMode.PROMISC, 0), VlanAdd(5)]
    assert (stage.kicks, stage.calls) == (1, 0)
    assert stage.ledger.state == TrackedState(MAC), "nothing moved before the device said so"
    stage.device_gives(taken[2][0], taken[1][0])
    stage.step(0)
    assert stage.answers() == [], "the first is still out"
    stage.device_gives(taken[0][0])
    stage.step(0)
    assert stage.answers() == [0, 0, 0]
    assert (stage.kicks, stage.calls) == (1, 1)
    assert stage.ledger.state == TrackedState(OTHER, rx=0, vlans=1 << 5)


def test_a_refused_command_takes_its_turn_and_does_not_stop_the_rest():
    stage = Stage()
    stage.send(MacAddrSet(OTHER), VlanAdd(4096), VlanAdd(6))
    stage.step(0)
    assert stage.device_obeys() == [MacAddrSet(OTHER), VlanAdd(6)]
    stage.step(0)
    assert stage.answers() == [0, 1, 0]
    assert [event["reason"] for event in stage.log.of("cvq.command.refused")] == ["vlan.id"]


def test_the_devices_own_refusal_reaches_the_guest_and_moves_nothing():
    stage = Stage()
    stage.send(MacAddrSet(OTHER))
    stage.step(0)
    stage.device_gives(stage.device_takes()[0][0], ack=1)
    stage.step(0)
    assert stage.answers() == [1]
    assert stage.ledger.state.mac == MAC
    assert not stage.log.of("state.changed")


def test_a_command_that_depends_on_others_waits_for_them():
    stage = Stage()
    stage.send(MacAddrSet(OTHER), VqPairsSet(4), VlanAdd(1))
    stage.step(0)
    assert stage.device_obeys() == [MacAddrSet(OTHER)]
    stage.step(0)
    assert stage.answers() == [0]
    stage.step(0)
    assert stage.device_obeys() == [VqPairsSet(4), VlanAdd(1)]
    stage.step(0)
    assert stage.answers() == [0, 0]


def test_an_announcement_of_the_daemons_own_is_answered_without_the_device():
    stage = Stage(announces=True)
    stage.ledger.raise_announce()
    stage.send(AnnounceAck(), AnnounceAck())
    stage.step(0)
    assert stage.answers() == [0, 1]
    assert stage.device_takes() == []
    assert not stage.ledger.state.announce


def test_more_commands_than_slots_are_served_in_turns():
    stage = Stage(slots=2)
    stage.send(*(VlanAdd(vid) for vid in range(5)))
    assert not stage.step(0), "no room: the device has to answer first"
    assert stage.device_obeys() == [VlanAdd(0), VlanAdd(1)]
    assert stage.step(0), "there is room now, and the guest may have more"
    stage.step(0)
    assert stage.device_obeys() == [VlanAdd(2), VlanAdd(3)]
    assert stage.step(0)
    stage.step(0)
    assert stage.device_obeys() == [VlanAdd(4)]
    stage.step(0)
    assert stage.answers() == [0] * 5


def test_a_device_that_is_silent_costs_the_guest_a_deadline_and_no_more():
    stage = Stage(slots=2)
    stage.send(MacAddrSet(OTHER), VlanAdd(1), VqPairsSet(2))
    stage.step(10)
    assert stage.relay._next_deadline() == 11
    stage.step(10.9)
    assert stage.answers() == []
    stage.step(11)
    assert stage.answers() == [1, 1]
    stage.step(11)
    assert stage.relay._next_deadline() == 12, "the third waits for a slot"
    stage.step(12)
    assert stage.answers() == [1]
    assert [event["command"] for event in stage.log.of("cvq.command.expired")] == [
        "mac.addr_set",
        "vlan.add",
        "mq.vq_pairs_set",
    ]
    stage.device_obeys()
    stage.step(13)
    assert stage.answers() == [], "a late answer is not the guest's any more"
    assert stage.ledger.state == TrackedState(OTHER, vlans=2)
    assert len(stage.log.of("cvq.command.late")) == 2
    stage.send(VqPairsSet(3))
    stage.step(14)
    assert stage.device_obeys() == [VqPairsSet(3)]
    stage.step(14)
    assert stage.answers() == [0]


def test_the_next_deadline_is_that_of_whoever_may_wait_least():
    stage = Stage()
    stage.send(MacAddrSet(OTHER))
    stage.step(10)
    stage.send(VqPairsSet(2))
    stage.step(10.5)
    assert stage.relay._next_deadline() == 11, "the second waits for the first, and may wait longer"
    stage.step(11)
    assert stage.relay._next_deadline() == 11.5
    stage.relay.deadline = 0.25
    stage.send(VqPairsSet(3))
    stage.step(11)
    assert stage.relay._next_deadline() == 11.25


class Keeper(NothingKept):
    """Notes what the guest had seen of the answers when something was kept."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage
        self.story: list[tuple[str, int]] = []
        self.tidied = 0
        stage.relay._kept = self
        stage.relay._call_guest = lambda: self._note("called")

    def _note(self, what: str) -> None:
        self.story.append((what, self._stage.guest.ring.used_index))

    def commit(self, ledger: Ledger) -> None:
        for _ in ledger.take_fresh():
            self._note("kept")

    def tidy(self, ledger: Ledger) -> None:  # noqa: ARG002
        self.tidied += 1


def test_what_was_acknowledged_is_kept_before_the_guest_sees_it_and_it_is_called_after_that():
    stage = Stage()
    keeper = Keeper(stage)
    stage.send(MacAddrSet(OTHER), VlanAdd(1))
    stage.step(0)
    stage.device_obeys()
    stage.step(0)
    assert keeper.story == [("kept", 0), ("kept", 0), ("called", 2)]


async def test_what_is_kept_is_tidied_when_nobody_waits():
    stage = Stage()
    keeper = Keeper(stage)
    tidied = []

    def the_device_answers() -> list[int]:
        tidied.append(keeper.tidied)
        stage.device_obeys()
        return [1]

    stage.send(MacAddrSet(OTHER))
    await run_until_over(stage, ScriptedDoorbells(the_device_answers))
    assert [*tidied, keeper.tidied] == [0, 1]


def test_who_still_asks_when_the_device_is_gone_is_turned_away_whatever_the_number():
    stage = Stage(slots=2)
    stage.send(*(VlanAdd(vid) for vid in range(5)))
    stage.relay.turn_away()
    assert stage.answers() == [1] * 5
    assert stage.device_takes() == []


def test_a_queue_that_cannot_be_followed_is_reported_once_and_what_was_popped_is_answered():
    stage = Stage()
    stage.send(MacAddrSet(OTHER))
    stage.step(0)
    stage.guest.ring.available_index = 0x8000
    stage.step(0)
    stage.step(0)
    stage.device_obeys()
    stage.step(0)
    assert stage.answers() == [0]
    assert [event["reason"] for event in stage.log.of("cvq.broken")] == ["queue.index"]


def test_draining_fetches_nothing_more():
    stage = Stage()
    stage.send(MacAddrSet(OTHER))
    stage.step(0)
    stage.send(VlanAdd(1))
    stage.device_obeys()
    stage.step(0, fetch=False)
    assert stage.answers() == [0]
    assert stage.device_takes() == []


def test_a_result_reaches_the_guest_behind_its_status_as_far_as_the_guest_has_room():
    for room, expected in [(9, 9), (5, 5), (40, 9)]:
        stage = Stage()
        status = stage.guest.command(CoalVqGet(1).encode(), answer=room)
        stage.step(0)
        chain = stage.device.pop()
        assert chain is not None
        assert chain.writable_length == expected, "the device has as much room as the guest gave, or less"
        stage.device.push(chain, chain.write(b"\0" + bytes(range(1, 9))))
        stage.device.publish()
        stage.step(0)
        assert stage.guest.ring.used_element(0) == (0, expected)
        result = [stage.guest.byte(status + place) for place in range(room)]
        assert result == [*range(expected), *[0xFF] * (room - expected)]


def test_a_refused_question_is_answered_with_one_byte():
    stage = Stage()
    status = stage.guest.command(CoalVqGet(8).encode(), answer=9)
    stage.step(0)
    assert stage.guest.ring.used_element(0) == (0, 1)
    assert [stage.guest.byte(status + place) for place in range(3)] == [1, 0xFF, 0xFF]
