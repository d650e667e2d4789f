from __future__ import annotations

from cvqd.simulator.moderation import Moderation
from cvqd.wire.net_control import Coalescing

NEVER = 10.0


def moderation(**values: Coalescing) -> tuple[Moderation, dict[int, Coalescing]]:
    table = {int(queue[1:]): value for queue, value in values.items()}
    return Moderation(lambda queue: table.get(queue, Coalescing())), table


def test_without_parameters_each_packet_is_told():
    for values in (Coalescing(), Coalescing(8, 0), Coalescing(0, 100)):
        held, _ = moderation(q0=values)
        held.used(0, 1, now=NEVER)
        assert held.due(NEVER) == [0]
        assert held.due(NEVER) == []


def test_packets_are_counted_up_to_the_limit():
    held, _ = moderation(q0=Coalescing(3, 1_000_000))
    for packets, due in [(1, []), (1, []), (1, [0]), (2, []), (5, [0])]:
        held.used(0, packets, now=NEVER)
        assert held.due(NEVER) == due


def test_time_is_counted_from_the_first_packet_that_was_not_told():
    held, _ = moderation(q0=Coalescing(100, 50))
    held.used(0, 1, now=1.0)
    held.used(0, 1, now=1.00004)
    assert held.next_due == 1.00005
    assert held.due(1.000049) == []
    assert held.due(1.00005) == [0]
    assert held.next_due is None


def test_each_ring_counts_for_itself():
    held, _ = moderation(q0=Coalescing(2, 1000), q1=Coalescing(5, 10))
    held.used(0, 1, now=1.0)
    held.used(1, 1, now=1.0)
    assert held.due(1.0005) == [1]
    assert held.next_due == 1.001


def test_new_parameters_are_met_at_once():
    # virtio 1.3 §5.1.6.5.9.1, "Notifications When Coalescing Parameters Change"
    held, table = moderation(q1=Coalescing(15, 1_000_000))
    held.used(1, 10, now=1.0)
    assert held.due(1.0) == []
    table[1] = Coalescing(8, 1_000_000)
    assert held.due(1.0) == [1]


def test_what_is_held_can_be_let_go_or_forgotten():
    held, _ = moderation(q0=Coalescing(9, 9), q2=Coalescing(9, 9))
    held.used(0, 1, now=1.0)
    held.used(2, 1, now=1.0)
    assert held.release(2) == [2]
    assert held.release() == [0]
    held.used(0, 1, now=1.0)
    held.reset()
    assert held.next_due is None
