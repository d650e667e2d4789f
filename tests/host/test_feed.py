"""Followers of a feed: each has what fits, and knows what did not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cvqd.host.feed import Feed
from kit.rig import settled

if TYPE_CHECKING:
    import trio


def lines(data: bytes) -> list[object]:
    return [json.loads(line) for line in data.splitlines()]


async def test_everybody_gets_what_is_published_while_they_follow():
    feed = Feed()
    assert not feed.followed
    with feed.follow() as early:
        feed.publish(b"1\n")
        with feed.follow() as late:
            feed.publish(b"2\n")
            assert lines(await late.take()) == [2]
        assert feed.followed
        assert lines(await early.take()) == [1, 2]
    assert not feed.followed


async def test_a_follower_waits_for_news(nursery: trio.Nursery):
    feed = Feed()
    came: list[object] = []

    async def read() -> None:
        with feed.follow() as follower:
            while True:
                came.append(lines(await follower.take()))

    nursery.start_soon(read)
    await settled()
    feed.publish(b"1\n")
    feed.publish(b"2\n")
    await settled()
    feed.publish(b"3\n")
    await settled()
    assert came == [[1, 2], [3]]
    nursery.cancel_scope.cancel()


async def test_what_does_not_fit_is_counted_where_it_is_missing():
    feed = Feed()
    with feed.follow(capacity=6) as slow, feed.follow() as quick:
        for number in range(5):
            feed.publish(b"%d\n" % number)
        assert lines(await slow.take()) == [0, 1, 2, {"lost": 2}]
        feed.publish(b"5\n")
        assert lines(await slow.take()) == [5]
        assert lines(await quick.take()) == [0, 1, 2, 3, 4, 5]


async def test_a_gap_that_a_shorter_line_fits_behind_is_marked_before_it():
    feed = Feed()
    with feed.follow(capacity=6) as follower:
        feed.publish(b"11\n")
        feed.publish(b"2222\n")
        feed.publish(b"33\n")
        feed.publish(b"4\n")
        assert lines(await follower.take()) == [11, {"lost": 1}, 33, {"lost": 1}]
        assert not follower._bytes
