"""Address tables that the device does not take: it becomes promiscuous, and later filters again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.core.site_policy import SitePolicy
from cvqd.core.tracked import TrackedState
from cvqd.wire.net_control import (
    MacTableSet,
    RxMode,
    RxModeSet,
    VlanAdd,
)
from kit.relay_stage import MAC, OTHER, Stage

if TYPE_CHECKING:
    from cvqd.core.queues.guest_queue import Chain


BIG = MacTableSet((OTHER,) * 3, ())
SMALL = MacTableSet((OTHER,), ())


def widened_stage() -> Stage:
    stage = Stage()
    stage.send(RxModeSet(RxMode.PROMISC, 0))
    stage.step(0)
    stage.device_obeys()
    stage.step(0)
    stage.send(BIG)
    stage.step(0)
    stage.device_gives(stage.device_takes()[0][0], ack=1)
    stage.step(0)
    assert stage.answers() == [0], "the table has no answer yet"
    return stage


def test_tables_that_the_device_does_not_take_make_it_promiscuous_and_stay_in_the_state():
    stage = widened_stage()
    stage.send(VlanAdd(1))
    stage.step(0)
    assert stage.device_obeys() == [RxModeSet(RxMode.PROMISC, 1)], "nothing overtakes it"
    stage.step(0)
    assert stage.answers() == [0]
    assert stage.ledger.state == TrackedState(MAC, rx=0, unicast=(OTHER,) * 3, widened=True)
    assert stage.log.of("cvq.table.widened") == [{"command_id": 2, "unicast": 3, "multicast": 0}]
    stage.step(0)
    assert stage.device_obeys() == [VlanAdd(1)]


def test_a_widened_device_keeps_its_mode_until_tables_fit_and_then_has_the_guests():
    stage = widened_stage()
    stage.device_obeys()
    stage.step(0)
    stage.send(RxModeSet(RxMode.PROMISC, 1), RxModeSet(RxMode.PROMISC, 0), BIG)
    stage.step(0)
    [(chain, command)] = stage.device_takes()
    assert command == BIG
    stage.device_gives(chain, ack=1)
    stage.step(0)
    assert stage.answers() == [0, 0, 0, 0], "promiscuous already: nothing more to do"
    stage.send(SMALL)
    stage.step(0)
    assert stage.device_obeys() == [SMALL]
    stage.step(0)
    assert stage.device_obeys() == [RxModeSet(RxMode.PROMISC, 0)]
    stage.step(0)
    assert stage.answers() == [0]
    assert stage.ledger.state == TrackedState(MAC, rx=0, unicast=(OTHER,))
    assert len(stage.log.of("cvq.table.narrowed")) == 1


def test_a_device_that_can_do_neither_has_its_refusal_passed_on():
    stage = widened_stage()
    stage.device_gives(stage.device_takes()[0][0], ack=1)
    stage.step(0)
    assert stage.answers() == [1]
    assert stage.ledger.state == TrackedState(MAC, rx=0)
    assert not stage.log.of("cvq.table.widened")
    stage.send(VlanAdd(1))
    stage.step(0)
    assert stage.device_obeys() == [VlanAdd(1)]


def test_a_table_that_is_refused_late_has_nothing_done_for_it():
    stage = Stage()
    stage.send(BIG)
    stage.step(0)
    stage.step(1)
    assert stage.answers() == [1], "expired"
    stage.device_gives(stage.device_takes()[0][0], ack=1)
    stage.step(1)
    assert stage.device_takes() == []
    assert stage.ledger.state == TrackedState(MAC)


def test_a_device_that_is_promiscuous_too_late_is_so_for_no_table_that_the_guest_knows():
    stage = widened_stage()
    stage.step(1)
    assert stage.answers() == [1]
    stage.send(VlanAdd(1))
    stage.step(1)
    assert stage.device_obeys() == [RxModeSet(RxMode.PROMISC, 1), VlanAdd(1)]
    stage.step(1)
    assert stage.answers() == [0]
    assert stage.ledger.state == TrackedState(MAC, rx=1 << RxMode.PROMISC, vlans=2)
    assert not stage.ledger.uncertain


def test_a_mode_that_the_guest_sets_behind_a_late_one_is_the_one_in_force():
    stage = widened_stage()
    stage.step(1)
    [(late, _)] = stage.device_takes()
    stage.send(RxModeSet(RxMode.PROMISC, 0))
    stage.step(1)
    assert stage.device_obeys() == [RxModeSet(RxMode.PROMISC, 0)]
    stage.device_gives(late)
    stage.step(1)
    assert stage.answers() == [1, 0]
    assert stage.ledger.state == TrackedState(MAC, rx=0)


def narrowing_without_an_answer() -> tuple[Stage, Chain]:
    stage = widened_stage()
    stage.device_obeys()
    stage.step(0)
    stage.send(SMALL)
    stage.step(0)
    assert stage.device_obeys() == [SMALL]
    stage.step(0)
    [(late, command)] = stage.device_takes()
    assert command == RxModeSet(RxMode.PROMISC, 0)
    stage.step(1)
    assert stage.answers() == [0, 1]
    return stage, late


def test_a_mode_is_set_on_the_device_while_nobody_knows_whether_it_is_promiscuous():
    stage, late = narrowing_without_an_answer()
    stage.send(RxModeSet(RxMode.PROMISC, 1))
    stage.step(1)
    assert stage.device_obeys() == [RxModeSet(RxMode.PROMISC, 1)]
    stage.device_gives(late)
    stage.step(1)
    assert stage.answers() == [0]
    assert stage.ledger.state == TrackedState(MAC, rx=1 << RxMode.PROMISC, unicast=(OTHER,))


def test_a_device_that_may_filter_again_is_told_to_take_everything_for_tables_it_does_not_take():
    stage, late = narrowing_without_an_answer()
    stage.send(BIG)
    stage.step(1)
    stage.device_gives(stage.device_takes()[0][0], ack=1)
    stage.step(1)
    assert stage.device_obeys() == [RxModeSet(RxMode.PROMISC, 1)]
    stage.device_gives(late)
    stage.step(1)
    assert stage.answers() == [0]
    assert stage.ledger.state == TrackedState(MAC, rx=0, unicast=(OTHER,) * 3, widened=True)
    stage.send(RxModeSet(RxMode.PROMISC, 0))
    stage.step(1)
    assert stage.answers() == [0], "and is known to do so from then on"
    assert stage.device_takes() == []


def test_a_command_answered_here_keeps_its_place_behind_one_without_an_answer():
    stage = Stage()
    stage.send(VlanAdd(1))
    stage.step(0)
    [(silent, _)] = stage.device_takes()
    stage.step(1)
    assert stage.answers() == [1], "expired"
    stage.send(RxModeSet(RxMode.PROMISC, 1), BIG)
    stage.step(1)
    stage.device_obeys()
    stage.step(1)
    stage.device_gives(stage.device_takes()[0][0], ack=1)
    stage.step(1)
    assert stage.device_obeys() == [RxModeSet(RxMode.PROMISC, 1)]
    stage.step(1)
    stage.send(RxModeSet(RxMode.PROMISC, 0))
    stage.step(1)
    assert stage.ledger.state.widened, "promiscuous all the same"
    wanted = stage.ledger.state
    assert wanted.rx == 0
    stage.device_gives(silent)
    stage.step(1)
    assert stage.ledger.state == wanted.after(VlanAdd(1))


def test_a_site_that_forbids_promiscuous_mode_has_the_devices_refusal_passed_on():
    stage = Stage()
    stage.relay.site = SitePolicy(promiscuous=False)
    stage.send(BIG)
    stage.step(0)
    stage.device_gives(stage.device_takes()[0][0], ack=1)
    stage.step(0)
    assert stage.answers() == [1]
    assert stage.device_takes() == []
