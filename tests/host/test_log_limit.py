from __future__ import annotations

from cvqd.host.log_limit import GuestLimit

SECOND = 1_000_000_000


def test_a_burst_passes_and_a_flood_is_held_to_the_rate():
    limit = GuestLimit(burst=10, rate=5)
    start = 1000 * SECOND
    assert sum(limit.admits(start) for _ in range(100)) == 10
    assert sum(limit.admits(start + SECOND) for _ in range(100)) == 5
    assert sum(limit.admits(start + SECOND + SECOND // 5) for _ in range(100)) == 1
    assert limit.take_left_out() == 90 + 95 + 99
    assert limit.take_left_out() == 0


def test_a_long_silence_refills_no_more_than_one_burst():
    limit = GuestLimit(burst=3, rate=1)
    assert sum(limit.admits(SECOND) for _ in range(9)) == 3
    assert sum(limit.admits(10**6 * SECOND) for _ in range(9)) == 3


def test_what_is_within_the_rate_always_passes():
    limit = GuestLimit(burst=1, rate=200)
    assert all(limit.admits(step * SECOND // 200) for step in range(1, 5000))
