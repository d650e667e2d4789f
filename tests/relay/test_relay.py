"""The relay step by step, between a ring in plain memory and a device that does what the test says."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import trio

from cvqd.core.address_space import AddressSpace
from cvqd.core.ledger import Ledger
from cvqd.core.policy import Policy
from cvqd.core.queues.guest_queue import Chain, GuestQueue
from cvqd.core.queues.shadow_queue import ShadowLayout, ShadowQueue
from cvqd.core.site_policy import SitePolicy
from cvqd.core.state_keeper import NothingKept
from cvqd.core.tracked import TrackedState
from cvqd.relay import SILENCE, Relay
from cvqd.telemetry.journal import BACKLOG, Journal
from cvqd.testing.events import EventRecorder
from cvqd.wire.net_control import (
    AnnounceAck,
    CoalVqGet,
    Command,
    MacAddrSet,
    MacTableSet,
    RxMode,
    RxModeSet,
    VlanAdd,
    VqPairsSet,
    decode,
)
from cvqd.wire.split_ring import SplitRing, ring_sizes
from cvqd.wire.vhost_vdpa import Access
from cvqd.wire.virtio import Feature, mask_of
from kit.ring_memory import RingMemory, no_fence

if TYPE_CHECKING:
    from collections.abc import Callable

MAC = bytes.fromhex("525400000001")
OTHER = bytes.fromhex("525400000002")
IOVA = 0x7000_0000


class Stage:
    """A relay, the guest's end and the device's end of it."""

    def __init__(
        self, *, features: int = mask_of(*Feature), slots: int = 64, announces: bool = False
    ) -> None:
        self.guest = RingMemory(num=256)
        self.log = EventRecorder()
        self.journal = Journal(self.log)
        self.ledger = Ledger(TrackedState(MAC))
        layout = ShadowLayout(2 * slots, 256)
        memory = memoryview(bytearray(layout.size))
        space = AddressSpace()
        space.add(IOVA, memory, Access.READ_WRITE)
        self.shadow = ShadowQueue(layout, memory, IOVA, no_fence)
        parts = zip(layout.addresses(IOVA), ring_sizes(layout.num), strict=True)
        ring = SplitRing(layout.num, *(space.contiguous(at, size, Access.READ) for at, size in parts))
        self.device = GuestQueue(ring, space, no_fence)
        self.kicks = self.calls = self._heads = self._answered = 0
        self.relay = Relay(
            guest=GuestQueue(self.guest.ring, self.guest.space, no_fence),
            shadow=self.shadow,
            ledger=self.ledger,
            policy=Policy(features, max_pairs=4, announces=announces),
            journal=self.journal,
            deadline=1.0,
            max_command=256,
            kick_device=self._kick,
            call_guest=self._call,
        )

    def _kick(self) -> None:
        self.kicks += 1

    def _call(self) -> None:
        self.calls += 1

    def step(self, now: float, *, fetch: bool = True) -> bool:
        more = self.relay.step(now, fetch=fetch)
        self.journal.tell()
        return more

    def send(self, *commands: Command) -> None:
        for command in commands:
            self.guest.command(command.encode(), head=self._heads % 254, offset=32 * (self._heads % 254))
            self._heads += 2

    def device_takes(self) -> list[tuple[Chain, Command]]:
        taken = []
        while (chain := self.device.pop()) is not None:
            taken.append((chain, decode(chain.read(1000))))
        return taken

    def device_gives(self, *chains: Chain, ack: int = 0) -> None:
        for chain in chains:
            chain.write(bytes([ack]))
            self.device.push(chain, 1)
        self.device.publish()

    def device_obeys(self) -> list[Command]:
        taken = self.device_takes()
        self.device_gives(*(chain for chain, _ in taken))
        return [command for _, command in taken]

    def answers(self) -> list[int]:
        """Status bytes of the commands given back since the last call, in the ring's order."""
        found = []
        while self._answered != self.guest.ring.used_index:
            head, written = self.guest.ring.used_element(self._answered)
            assert written == 1
            found.append(self.guest.byte(self.guest.ring.descriptor(head + 1).address))
            self._answered = (self._answered + 1) & 0xFFFF
        return found


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


class ScriptedDoorbells:
    """Stands in for ``DoorbellSet``: each wait is the next step of a test; the last one ends it."""

    class Over(Exception):  # noqa: N818
        pass

    def __init__(self, *waits: Callable[[], list[int]]) -> None:
        self.kicked = False
        self.until: list[float | None] = []
        self._waits = list(waits)

    def rang(self) -> bool:
        return self.kicked

    async def wait(self, deadline: float | None = None) -> list[int]:
        self.until.append(deadline)
        self.kicked = False
        if not self._waits:
            raise self.Over
        return self._waits.pop(0)()


async def run_until_over(stage: Stage, doorbells: ScriptedDoorbells) -> None:
    with pytest.raises(ScriptedDoorbells.Over):
        await stage.relay.run(doorbells)


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


def test_a_site_that_forbids_promiscuous_mode_has_the_devices_refusal_passed_on():
    stage = Stage()
    stage.relay.site = SitePolicy(promiscuous=False)
    stage.send(BIG)
    stage.step(0)
    stage.device_gives(stage.device_takes()[0][0], ack=1)
    stage.step(0)
    assert stage.answers() == [1]
    assert stage.device_takes() == []
