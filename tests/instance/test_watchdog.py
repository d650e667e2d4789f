"""The watchdog's sign of life comes from the relay, and from nobody in its place."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from cvqd.instance import watchdog
from cvqd.telemetry.journal import Pending
from cvqd.testing.events import EventRecorder
from kit.rig import Rig, jumping_clock, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from cvqd.relay import Relay


class Manager:
    """Notes when it got a sign of life; it wants one every ten seconds."""

    watchdog: float | None = 10.0

    def __init__(self) -> None:
        self.begun = trio.current_time()
        self.seconds: list[float] = []

    async def alive(self) -> None:
        self.seconds.append(trio.current_time() - self.begun)


@asynccontextmanager
async def watched(tmp_path: Path) -> AsyncIterator[tuple[Rig, Manager]]:
    """An instance with a running guest."""
    async with Rig.opened(tmp_path) as rig, rig.guest() as guest:
        await guest.start()
        await settled()
        manager = Manager()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watchdog.feed, manager, rig.owner.pulse, rig.log)
            yield rig, manager
            nursery.cancel_scope.cancel()


def relay_of(rig: Rig) -> Relay:
    run = rig.owner._run
    assert run is not None
    assert run._relay is not None
    return run._relay


@jumping_clock
async def test_an_idle_relay_is_woken_twice_in_each_time_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with watched(tmp_path) as (rig, manager):
        relay, turns = relay_of(rig), []
        step = relay.step
        monkeypatch.setattr(relay, "step", lambda now, **how: turns.append(now) or step(now, **how))
        await trio.sleep(61)
        assert manager.seconds == pytest.approx([5.0 * number for number in range(13)])
        assert len(turns) == 13
        assert rig.log.of("watchdog.withheld") == []


@pytest.mark.bad_day(
    "the relay stalls",
    guest="its commands wait; the service manager is given no sign of life",
    log="watchdog.withheld",
)
@jumping_clock
async def test_a_relay_that_waits_for_something_else_gives_no_sign(tmp_path: Path):
    async with watched(tmp_path) as (rig, manager):
        run = rig.owner._run
        assert run is not None
        hold, wait = trio.Event(), run.doorbells.wait

        async def stalled(deadline: float | None = None) -> list[int]:
            await hold.wait()
            return await wait(deadline)

        await trio.sleep(6)
        run.doorbells.wait = stalled  # type: ignore[method-assign]
        await trio.sleep(54)
        # the turn that was being waited for came to its end, and then none
        assert manager.seconds == pytest.approx([0, 5, 10])
        assert rig.log.of("watchdog.withheld") == [{"seconds": 2.5}]
        hold.set()
        await trio.sleep(1)
        assert manager.seconds[3:] == pytest.approx([60.0])


@jumping_clock
async def test_a_turn_that_leaves_a_command_beyond_its_deadline_is_no_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with watched(tmp_path) as (rig, manager):
        relay = relay_of(rig)
        await trio.sleep(6)
        forgotten = Pending(99, None, b"\x01\x01", trio.current_time() + 1)  # type: ignore[arg-type]
        monkeypatch.setattr(relay, "step", lambda _now, **_how: False)
        relay._open.append(forgotten)
        await trio.sleep(30)
        assert manager.seconds == pytest.approx([0, 5])
        assert len(rig.log.of("watchdog.withheld")) == 1
        relay._open.clear()


@jumping_clock
async def test_no_relay_is_nothing_to_wait_for_and_an_end_lets_go(tmp_path: Path):
    async with Rig.opened(tmp_path) as rig, rig.guest() as guest:
        await rig.owner.pulse()
        await guest.start()
        run = rig.owner._run
        assert run is not None

        async def stalled(_deadline: float | None = None) -> list[int]:
            await trio.sleep_forever()
            return []

        await settled()
        run.doorbells.wait = stalled  # type: ignore[method-assign]
        await rig.owner.pulse()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.pulse)
            await settled()
            assert len(nursery.child_tasks) == 1
            await guest.stop()
        await run.pulse()


async def test_a_manager_that_does_not_watch_costs_no_wake_up():
    manager = Manager()
    manager.watchdog = None
    await watchdog.feed(manager, trio.sleep_forever, EventRecorder())  # type: ignore[arg-type]
    assert manager.seconds == []
