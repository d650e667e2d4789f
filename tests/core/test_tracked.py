from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cvqd.core.coalescing import CoalescingTable
from cvqd.core.ledger import Ledger
from cvqd.core.restore import replay, replay_running
from cvqd.core.tracked import TableKept, TrackedState
from cvqd.wire.net_control import (
    GUEST_OFFLOADS,
    AnnounceAck,
    Coalescing,
    CoalRxSet,
    CoalTxSet,
    CoalVqGet,
    CoalVqSet,
    Command,
    GuestOffloadsSet,
    HashConfig,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxMode,
    RxModeSet,
    StatsQuery,
    Unknown,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.virtio import Feature, mask_of

MAC = bytes.fromhex("525400000001")
OTHER = bytes.fromhex("525400000002")
EVERYTHING = mask_of(*Feature)
RESET = TrackedState.after_reset(MAC, EVERYTHING)

macs = st.binary(min_size=6, max_size=6)
tables = st.lists(macs, max_size=4).map(tuple)
values = st.builds(Coalescing, st.integers(0, 2), st.integers(0, 2))
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(MacAddrSet, macs),
    st.builds(MacTableSet, tables, tables),
    st.builds(RxModeSet, st.sampled_from(RxMode), st.integers(0, 1)),
    st.builds(VlanAdd, st.integers(0, 4095)),
    st.builds(VlanDel, st.integers(0, 4095)),
    st.builds(VqPairsSet, st.integers(1, 8)),
    st.builds(
        RssConfig, st.just(7), st.just(1), st.just(0), st.just((0, 1)), st.integers(1, 8), st.just(b"k")
    ),
    st.builds(HashConfig, st.integers(0, 511), st.just(b"key")),
    st.builds(GuestOffloadsSet, st.sampled_from([0, 1 << 1, GUEST_OFFLOADS])),
    st.builds(CoalTxSet, values),
    st.builds(CoalRxSet, values),
    st.builds(CoalVqSet, st.integers(0, 7), values),
)


RSS = RssConfig(7, 1, 0, (0, 1), 2, b"k")


def fold(done: list[Command], state: TrackedState = RESET) -> TrackedState:
    for command in done:
        state = state.after(command)
    return state


def test_each_command_changes_its_part_and_nothing_else():
    assert RESET.after(MacAddrSet(OTHER)) == RESET._replace(mac=OTHER)
    assert RESET.after(RxModeSet(RxMode.ALLMULTI, 1)).rx == RESET.rx | 2
    assert RESET.after(RxModeSet(RxMode.PROMISC, 0)).rx == 0
    assert RESET.after(MacTableSet((OTHER,), (MAC,))) == RESET._replace(unicast=(OTHER,), multicast=(MAC,))
    assert RESET.after(VqPairsSet(4)).pairs == 4
    assert RESET.after(VlanAdd(5)).after(VlanAdd(4095)).vlan_ids() == [5, 4095]
    assert RESET.after(VlanAdd(5)).after(VlanDel(5)) == RESET
    assert RESET._replace(announce=True).after(AnnounceAck()) == RESET
    assert RESET.after(Unknown(9, 9)) == RESET


def test_digests_differ_for_each_part_and_not_for_the_order_of_a_table():
    states = [
        RESET,
        RESET._replace(mac=OTHER),
        RESET._replace(rx=0),
        RESET._replace(unicast=(MAC,)),
        RESET._replace(multicast=(MAC,)),
        RESET._replace(vlans=1),
        RESET._replace(pairs=2),
        RESET._replace(announce=True),
        RESET._replace(hashing=RSS),
        RESET._replace(hashing=HashConfig(1, b"k")),
        RESET._replace(offloads=0),
        RESET._replace(coalescing=CoalescingTable(tx=Coalescing(1, 1))),
        RESET._replace(coalescing=CoalescingTable(rx=Coalescing(1, 1))),
        RESET._replace(coalescing=CoalescingTable(queues=((1, Coalescing(1, 1)),))),
    ]
    assert len({state.digest() for state in states}) == len(states)
    assert RESET._replace(unicast=(MAC, OTHER)).digest() == RESET._replace(unicast=(OTHER, MAC)).digest()


@given(st.lists(commands, max_size=30))
def test_a_replay_leads_a_reset_device_to_the_same_state(done):
    state = fold(done)
    everything = mask_of(*Feature)
    again = replay(state, everything) + replay_running(state, everything)
    assert fold(again) == state
    assert fold(again).digest() == state.digest()


@given(st.lists(commands, max_size=30), st.integers(0, (1 << 64) - 1))
def test_a_replay_sends_nothing_that_was_not_negotiated(done, features):
    assert all(
        command.feature is not None and features & command.feature.mask
        for command in replay(fold(done), features) + replay_running(fold(done), features)
    )


def test_without_mq_a_table_says_how_many_pairs_there_are_before_a_hash_report_ends_it():
    report = HashConfig(1, b"k")
    features = EVERYTHING & ~Feature.MQ.mask
    said = replay(fold([RSS, report]), features)
    assert fold(said)[:6] == fold([RSS, report])[:6]
    steering = [command for command in said if isinstance(command, RssConfig | HashConfig)]
    assert steering == [RssConfig(0, 0, 0, (0,), 2, b""), report]
    # a device without RSS has no such state, and a state of RSS needs no other table
    assert RssConfig not in map(type, replay(fold([RSS, report]), features & ~Feature.RSS.mask))
    assert replay(fold([RSS]), features).count(RSS) == 1


def test_the_shortest_replay_says_only_what_a_reset_leaves_open():
    assert replay(RESET, mask_of(*Feature)) == [
        MacAddrSet(MAC),
        RxModeSet(RxMode.PROMISC, 1),
        RxModeSet(RxMode.ALLMULTI, 0),
    ]


def test_state_moves_when_the_device_acknowledged_and_not_before():
    ledger = Ledger(RESET)
    ledger.submitted(1, MacAddrSet(OTHER))
    assert ledger.state == RESET
    assert ledger.answered(1, acked=True) == RESET._replace(mac=OTHER)
    ledger.submitted(2, MacAddrSet(MAC))
    assert ledger.answered(2, acked=False) is None
    assert ledger.state.mac == OTHER


def test_an_acknowledged_command_that_changes_nothing_is_no_change():
    ledger = Ledger(RESET)
    ledger.submitted(1, MacAddrSet(MAC))
    assert ledger.answered(1, acked=True) is None


def test_a_late_answer_takes_its_place_in_the_order_of_submission():
    ledger = Ledger(RESET)
    ledger.submitted(1, MacAddrSet(OTHER))
    ledger.expired(1)
    assert ledger.uncertain
    ledger.submitted(2, VqPairsSet(2))
    ledger.submitted(3, MacAddrSet(MAC))
    assert ledger.answered(2, acked=True) == RESET._replace(pairs=2)
    assert ledger.answered(3, acked=True) is None
    assert ledger.answered(1, acked=True) is None, "command 3 came after it"
    assert ledger.state == RESET._replace(pairs=2)
    assert not ledger.uncertain


def test_a_late_answer_moves_state_if_nothing_came_after_it():
    ledger = Ledger(RESET)
    ledger.submitted(1, MacAddrSet(OTHER))
    ledger.expired(1)
    assert ledger.answered(1, acked=True) == RESET._replace(mac=OTHER)


def test_a_lost_answer_leaves_doubt():
    ledger = Ledger(RESET)
    ledger.submitted(1, MacAddrSet(OTHER))
    ledger.lost(1)
    assert ledger.uncertain
    ledger.submitted(2, VqPairsSet(2))
    assert ledger.answered(2, acked=True) == RESET._replace(pairs=2)


def test_commands_behind_one_that_never_answers_are_not_remembered_for_ever():
    ledger = Ledger(RESET)
    ledger.submitted(0, MacAddrSet(OTHER))
    ledger.expired(0)
    for command_id in range(1, 3 * Ledger.DEPTH):
        ledger.submitted(command_id, VlanAdd(command_id % 4096))
        ledger.answered(command_id, acked=True)
    assert len(ledger._entries) <= Ledger.DEPTH
    assert ledger.uncertain
    assert len(ledger.state.vlan_ids()) == 3 * Ledger.DEPTH - 1


def test_answers_behind_one_that_never_comes_cost_no_more_the_more_there_are(monkeypatch):
    told = []
    after = TrackedState.after

    def counted(state: TrackedState, command: Command) -> TrackedState:
        told.append(command)
        return after(state, command)

    monkeypatch.setattr(TrackedState, "after", counted)
    ledger = Ledger(RESET)
    ledger.submitted(1, MacAddrSet(OTHER))
    ledger.expired(1)
    done = [VlanAdd(vid) for vid in range(100)]
    for command_id, command in enumerate(done, 2):
        ledger.submitted(command_id, command)
        ledger.answered(command_id, acked=True)
    assert told == done


@given(st.lists(st.tuples(commands, st.booleans()), max_size=12), st.randoms(use_true_random=False))
def test_the_state_is_the_fold_of_the_acknowledged_in_any_order_of_answers(done, random):
    ledger = Ledger(RESET)
    for command_id, (command, _) in enumerate(done):
        ledger.submitted(command_id, command)
    order = list(range(len(done)))
    random.shuffle(order)
    answered: set[int] = set()
    told = []
    for command_id in order:
        ledger.answered(command_id, acked=done[command_id][1])
        assert ledger.answered(command_id, acked=True) is None, "nothing is answered twice"
        answered.add(command_id)
        told += ledger.take_fresh()
        acknowledged = [(i, done[i][0]) for i in sorted(answered) if done[i][1]]
        assert sorted(told, key=lambda each: each[0]) == acknowledged
        assert ledger.state == fold([command for _, command in acknowledged])
        assert ledger.state == fold([command for _, command in ledger.ahead()], ledger.settled)
        assert ledger.unanswered() == [done[i][0] for i in range(len(done)) if i not in answered]
    assert not ledger._entries


def test_what_no_command_of_the_guests_says_outlasts_an_answer_that_was_awaited():
    ledger = Ledger(RESET._replace(announce=True))
    ledger.submitted(1, MacAddrSet(OTHER))
    ledger.announced()
    ledger.widened(widened=True)
    assert ledger.take_fresh() == [(0, AnnounceAck())]
    ledger.answered(1, acked=True)
    assert ledger.state == RESET._replace(mac=OTHER, widened=True)
    ledger.submitted(2, MacAddrSet(MAC))
    ledger.raise_announce()
    ledger.answered(2, acked=True)
    assert ledger.state.announce


def test_a_reset_leaves_what_the_negotiated_features_say():
    nothing = TrackedState.after_reset(MAC, 0)
    assert nothing.rx == 1 << RxMode.ALLMULTI, "nobody could turn promiscuous mode off"
    assert nothing.offloads == 0
    some = mask_of(Feature.CTRL_RX, Feature.GUEST_CSUM, Feature.GUEST_TSO6, Feature.MTU)
    assert TrackedState.after_reset(MAC, some).rx == 1 << RxMode.PROMISC
    assert TrackedState.after_reset(MAC, some).offloads == mask_of(Feature.GUEST_CSUM, Feature.GUEST_TSO6)


def test_the_last_steering_command_decides_and_a_hash_report_is_no_steering():
    assert RESET.after(RSS) == RESET._replace(hashing=RSS, pairs=2)
    assert RESET.after(RSS).after(VqPairsSet(4)) == RESET._replace(pairs=4)
    report = HashConfig(7, b"k")
    assert RESET.after(RSS).after(report).hashing == report
    assert RESET.after(report).after(VqPairsSet(4)) == RESET._replace(pairs=4, hashing=report)


def test_the_last_setter_of_a_queues_coalescing_wins():
    # the example of virtio 1.3 §5.1.6.5.9
    first, second, third, fourth = (Coalescing(number, number) for number in range(1, 5))
    state = RESET.after(CoalRxSet(first)).after(CoalVqSet(0, second)).after(CoalVqSet(1, third))
    assert [state.coalescing.of(queue) for queue in range(4)] == [second, third, first, Coalescing()]
    state = state.after(CoalTxSet(fourth))
    assert [state.coalescing.of(queue) for queue in range(4)] == [second, fourth, first, fourth]
    assert state.after(CoalVqSet(0, first)).coalescing.queues == ()
    assert state.after(CoalVqGet(0)) == state.after(StatsQuery()) == state


def test_replay_sets_steering_before_queues_run_and_single_queues_when_they_do():
    state = fold([RSS, GuestOffloadsSet(0), CoalTxSet(Coalescing(8, 9)), CoalVqSet(1, Coalescing(1, 2))])
    said = replay(state, EVERYTHING)
    assert said.index(VqPairsSet(2)) < said.index(RSS) < said.index(GuestOffloadsSet(0))
    assert CoalTxSet(Coalescing(8, 9)) in said
    assert replay_running(state, EVERYTHING) == [CoalVqSet(1, Coalescing(1, 2))]


def test_tables_that_a_device_does_not_take_are_kept_and_shown_but_not_in_the_digest():
    table = MacTableSet((OTHER,), ())
    kept = RESET.after(TableKept(table, widened=True))
    assert kept.unicast == (OTHER,)
    assert kept.widened
    assert kept.as_dict()["widened"] is True
    assert kept.digest() == RESET.after(table).digest()
    assert RESET.after(TableKept(table, widened=False)) == RESET.after(table)


def test_the_state_for_people_names_types_and_offloads_and_hides_the_key():
    shown = RESET.after(RSS).after(CoalVqSet(3, Coalescing(4, 5))).as_dict()
    assert shown["steering"] == {
        "mode": "rss",
        "hash_types": ["ipv4", "tcpv4", "udpv4"],
        "table": [0, 1],
        "unclassified": 0,
    }
    assert "GUEST_TSO4" in shown["offloads"]
    assert shown["coalescing"]["queues"] == {"3": {"packets": 4, "usecs": 5}}
    assert RESET.after(HashConfig(1, b"k")).as_dict()["steering"] == {
        "mode": "hash_report",
        "hash_types": ["ipv4"],
    }


def test_an_acknowledgement_that_waits_for_its_place_does_not_answer_the_next_announcement():
    ledger = Ledger(RESET)
    ledger.submitted(1, VlanAdd(1))
    ledger.expired(1)
    ledger.raise_announce()
    ledger.submitted(2, AnnounceAck())
    ledger.answered(2, acked=True)
    assert not ledger.state.announce
    ledger.raise_announce()
    assert ledger.ahead() == [], "nor for whoever keeps the state"
    ledger.submitted(3, VlanAdd(2))
    for id_ in (3, 1):
        ledger.answered(id_, acked=True)
        assert ledger.state.announce
