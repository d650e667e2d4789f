from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from cvqd.host.doorbell import Doorbell, DoorbellSet, ring

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
def bell() -> Iterator[Doorbell]:
    made = Doorbell()
    yield made
    made.close()


@pytest.fixture
async def bells(bell: Doorbell) -> AsyncIterator[DoorbellSet]:
    with DoorbellSet() as made:
        made.add(bell.fileno())
        yield made


async def test_every_ring_is_told_once_and_the_counter_is_left_alone(bell: Doorbell, bells: DoorbellSet):
    bell.ring()
    assert await bells.wait() == [bell.fileno()]
    assert await bells.wait(trio.current_time()) == []
    bell.ring()
    assert await bells.wait() == [bell.fileno()]
    assert os.eventfd_read(bell.fileno()) == 2


def test_a_lent_doorbell_that_is_full_is_no_reason_to_wait():
    full = os.eventfd(0, os.EFD_CLOEXEC)
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.eventfd_write(full, 2**64 - 2)
        with suppress(BlockingIOError):
            while True:
                os.write(write, bytes(4096))
        for lent in (full, write):
            # again and again, by who lent it
            for _ in range(2):
                os.set_blocking(lent, True)
                ring(lent)
        assert os.eventfd_read(full) == 2**64 - 2
    finally:
        for fd in (full, read, write):
            os.close(fd)


async def test_who_asks_whether_a_doorbell_rang_takes_nothing_from_who_waits(
    bell: Doorbell, bells: DoorbellSet
):
    assert not bells.rang()
    bell.ring()
    assert bells.rang()
    assert bells.rang()
    assert await bells.wait() == [bell.fileno()]
    assert not bells.rang()


async def test_a_wait_that_is_cancelled_takes_no_ring_with_it(bell: Doorbell, bells: DoorbellSet):
    bell.ring()
    with trio.CancelScope() as scope:
        scope.cancel()
        await bells.wait()
    assert scope.cancelled_caught
    assert await bells.wait() == [bell.fileno()]


async def test_a_wait_lets_others_run_even_if_something_rang(bell: Doorbell, bells: DoorbellSet):
    bell.ring()
    with trio.testing.assert_checkpoints():
        await bells.wait()


async def test_closing_wakes_who_waits(bells: DoorbellSet):
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _waits() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await bells.wait()

        await trio.testing.wait_all_tasks_blocked()
        bells.close()
