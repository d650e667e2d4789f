"""Who leaves in the middle of a move: front-end, daemon or device; all is let go of in order."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import Fault, FaultAction
from cvqd.telemetry.move import Move
from kit.rig import Rig, jumping_clock, open_descriptors, settled
from kit.two_devices import DRY_PHASES, PHASES, SPARE, mappings, moving, rehearse, two, waiting, well

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@jumping_clock
async def test_a_front_end_that_leaves_between_two_moves_ends_the_rehearsal(tmp_path: Path) -> None:
    async with two(tmp_path) as (rig, guest):
        answers = []
        async with trio.open_nursery() as nursery:

            async def go() -> None:
                answers.append(await rehearse(rig, back=True))

            nursery.start_soon(go)
            await settled()
            assert rig.log.of("switchover.finished")
            guest.front_end.close()
        (answer,) = answers
        assert (answer["verdict"], answer["reason"]) == ("failed", "no front-end is connected")
        assert [move["verdict"] for move in answer["moves"]] == ["passed"]
        assert answer["guest_on"] is None
        assert rig.log.of("rehearsal.finished")[0]["verdict"] == "failed"


@jumping_clock
async def test_a_rehearsal_that_is_cut_short_has_not_passed(tmp_path: Path) -> None:
    async with two(tmp_path) as (rig, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(rehearse, rig, back=True))
            await settled()
            assert rig.log.of("switchover.finished")
            nursery.cancel_scope.cancel()
        (finished,) = rig.log.of("rehearsal.finished")
        assert (finished["moves"], finished["failed"], finished["verdict"]) == (1, 0, "failed")


@jumping_clock
@pytest.mark.parametrize("phase", ["suspend", "replay"])
async def test_a_front_end_that_leaves_meanwhile_is_let_go_when_the_move_is_over(
    tmp_path: Path, phase: str
) -> None:
    async with two(tmp_path, spare=replace(SPARE, faults=waiting(phase))) as (rig, guest):
        async with trio.open_nursery() as nursery:
            await moving(rig, guest, nursery, phase)
            guest.front_end.close()
        await settled()
        assert rig.log.of("frontend.disconnected")
        assert not rig.owner.running
        assert rig.log.of("switchover.failed")[0]["phase"] == phase
        async with rig.guest() as another:
            await another.start()
            another.driver.fill(0, 16)
            await well(another)


@jumping_clock
@pytest.mark.parametrize("phase", ["suspend", "replay"])
async def test_a_daemon_that_ends_in_the_middle_takes_the_guest_back_first(
    tmp_path: Path, phase: str
) -> None:
    spare = replace(SPARE, faults=waiting(phase))
    async with two(tmp_path, spare=spare, deadline=2) as (rig, guest), trio.open_nursery() as nursery:
        await moving(rig, guest, nursery, phase)
        assert await ending(rig, nursery) <= 2.1
        assert not rig.owner.running
        assert rig.log.of("switchover.failed")[0]["guest_on"] == "source"
        assert [event["reason"] for event in rig.log.of("device.stopped")] == ["the daemon ends"]


@jumping_clock
async def test_a_device_that_is_removed_meanwhile_is_not_waited_for(tmp_path: Path) -> None:
    async with two(tmp_path, deadline=60) as (rig, guest), trio.open_nursery() as nursery:
        await moving(rig, guest, nursery, "suspend")
        rig.owner.ends(0.5)
        assert 0.5 <= await ending(rig, nursery) < 0.6
        assert not rig.owner.running


@jumping_clock
async def test_a_daemon_that_ends_meanwhile_takes_its_interrupt_back_from_where_the_guest_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent: dict[str, int] = {}
    lend = SimulatedDevice.set_config_call

    async def noted(device: SimulatedDevice, fd: int) -> None:
        lent[device.path] = fd
        await lend(device, fd)

    monkeypatch.setattr(SimulatedDevice, "set_config_call", noted)
    slow = replace(SPARE, faults=(Fault("mac.addr_set", FaultAction.DELAY, 0.5),))
    async with two(tmp_path, spare=slow) as (rig, guest), trio.open_nursery() as nursery:
        await moving(rig, guest, nursery, "replay")
        await ending(rig, nursery)
    assert rig.owner.current.name == "spare"
    assert lent["spare"] == -1


async def ending(rig: Rig, nursery: trio.Nursery) -> float:
    """End the service's tasks and what goes on in a nursery; how many seconds that takes."""
    begun = trio.current_time()
    nursery.cancel_scope.cancel()
    rig.ends()
    with trio.CancelScope(shield=True):
        await rig.ended.wait()
    return trio.current_time() - begun


@pytest.mark.parametrize(
    ("phases", "phase"), [(phases, phase) for phases in (PHASES, DRY_PHASES) for phase in phases]
)
@pytest.mark.parametrize("who", ["rehearsal", "daemon"])
async def test_whoever_ends_meanwhile_ends_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str, phases: list[str], phase: str
) -> None:
    gc.collect()
    before = open_descriptors(), mappings()
    await cut_short(tmp_path, monkeypatch, who, phases, phase)
    gc.collect()
    assert (open_descriptors(), mappings()) == before


async def cut_short(
    directory: Path, monkeypatch: pytest.MonkeyPatch, who: str, phases: list[str], phase: str
) -> None:
    """A whole life, with a move in whose ``phase`` the rehearsal or all of the daemon is cancelled."""
    entered: list[str] = []
    timed = Move.phase
    async with two(directory) as (rig, guest):
        with monkeypatch.context() as patch:
            async with trio.open_nursery() as nursery:

                @contextmanager
                def at_which_it_ends(move: Move, name: str) -> Iterator[None]:
                    with timed(move, name):
                        entered.append(name)
                        if name == phase:
                            nursery.cancel_scope.cancel()
                            if who == "daemon":
                                rig.ends()
                        yield

                patch.setattr(Move, "phase", at_which_it_ends)
                nursery.start_soon(partial(rehearse, rig, dry=phases is DRY_PHASES))
        assert entered in (PHASES[:1], phases), "what the guest notices is done in full"
        if who == "rehearsal":
            await well(guest)
    assert not rig.owner.running
    assert not rig.owner.current.mappings.mapped(0)
