from __future__ import annotations

from cvqd.core.start_rule import Readiness, wants_start, wants_stop
from cvqd.wire.virtio import Status

RINGS = frozenset(range(5))
READY = Readiness(
    features_set=True,
    status=None,
    complete=RINGS,
    enabled=RINGS,
    expected=RINGS,
    cvq=4,
    kicked=False,
    unread=False,
)
STATUS = int(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)


def test_all_rings_complete_and_enabled_start_the_device():
    assert wants_start(READY)
    assert not wants_start(READY._replace(enabled=RINGS - {3}))
    assert not wants_start(READY._replace(complete=RINGS - {3}))
    assert not wants_start(READY._replace(features_set=False))


def test_a_kick_starts_what_is_there_once_everything_said_was_heard():
    some = READY._replace(complete=frozenset({0, 1, 4}), enabled=frozenset({0, 1, 4}))
    assert not wants_start(some)
    assert wants_start(some._replace(kicked=True))
    assert not wants_start(some._replace(kicked=True, unread=True))
    assert not wants_start(some._replace(kicked=True, enabled=frozenset({0, 1})))
    assert not wants_start(some._replace(kicked=True, complete=frozenset({0, 1})))


def test_a_front_end_that_says_status_starts_at_driver_ok_and_not_before():
    said = READY._replace(status=STATUS, kicked=True)
    assert not wants_start(said)
    assert wants_start(said._replace(status=STATUS | Status.DRIVER_OK))
    assert wants_start(said._replace(status=STATUS | Status.DRIVER_OK, enabled=frozenset()))


def test_without_a_control_queue_the_first_pair_is_enough_for_a_kick():
    plain = READY._replace(
        cvq=None, expected=frozenset(range(4)), complete=frozenset({0, 1}), enabled=frozenset({0, 1})
    )
    assert wants_start(plain._replace(kicked=True))


def test_the_device_stops_when_the_last_ring_does():
    assert not wants_stop(READY, RINGS)
    assert not wants_stop(READY._replace(enabled=frozenset({3})), RINGS)
    assert wants_stop(READY._replace(enabled=frozenset()), RINGS)
    assert wants_stop(READY._replace(complete=frozenset({2, 3})), RINGS)


def test_the_device_stops_when_driver_ok_goes():
    said = READY._replace(status=STATUS | Status.DRIVER_OK, enabled=frozenset())
    assert not wants_stop(said, RINGS)
    assert wants_stop(said._replace(status=0), RINGS)
