"""``cvqd rehearse`` as an operator has it: a daemon, a guest, a terminal or none, exit codes for scripts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio

from cvqd.client import control
from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.verbs import rehearse as verb
from cvqd.verbs.rehearse import exit_code, progress, shortcoming
from cvqd.wire.net_control import MacAddrSet
from cvqd.wire.virtio import Feature, mask_of
from kit.service_manager import ServiceManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SET_MAC = MacAddrSet(bytes.fromhex("525400aa0001")).encode()
LEFT_OUT = mask_of(
    Feature.PROTOCOL_FEATURES, Feature.HASH_REPORT, Feature.RSS, Feature.INDIRECT_DESC, Feature.EVENT_IDX
)


class Result(NamedTuple):
    code: int
    answer: Any
    said: str


@asynccontextmanager
async def instance(
    directory: Path,
    *,
    device: dict[str, Any] | None = None,
    spare: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
) -> AsyncIterator[tuple[DaemonProcess, NetDriver]]:
    """A daemon with a guest that runs on ``device`` and may go to ``spare``."""
    config = simulator_config(directory)
    config["targets"] = {"spare": config["device"] | (spare or {})}
    config["device"] |= device or {}
    async with (
        DaemonProcess.start(directory, config, environment=environment or {}) as daemon,
        await FrontEnd.connect(daemon.socket) as front_end,
    ):
        with GuestMemory() as memory, NetDriver(memory, 4) as driver:
            order, features = ORDERS["qemu"], await front_end.get_features()
            await front_end.play(order.connect(driver.setup(features & ~LEFT_OUT)))
            await front_end.play(order.start(driver.setup(features & ~LEFT_OUT)))
            yield daemon, driver


async def rehearse(daemon: DaemonProcess, *words: str, terminal: bool = False) -> Result:
    """The verb, in a process of its own; what it says on standard error, which may be a terminal."""
    command = [sys.executable, "-m", "cvqd", "rehearse", "--config", str(daemon.config), *words]
    leader, follower = os.openpty() if terminal else os.pipe()
    reading, writing = leader, follower
    try:
        run = partial(subprocess.run, command, stdout=subprocess.PIPE, stderr=writing, check=False)
        finished = await trio.to_thread.run_sync(run)
        os.set_blocking(reading, False)
        said = ""
        with suppress(BlockingIOError):
            said = os.read(reading, 1 << 16).decode()
    finally:
        os.close(reading)
        os.close(writing)
    return Result(finished.returncode, json.loads(finished.stdout or "null"), said)


async def test_every_move_passed(tmp_path: Path) -> None:
    async with instance(tmp_path) as (daemon, driver):
        assert await driver.command(SET_MAC) == 0
        found = await rehearse(daemon, "--to", "spare", "--back", "--times", "2")
        assert (found.code, found.said) == (0, "")
        assert found.answer["verdict"] == "passed"
        assert [move["target"] for move in found.answer["moves"]] == ["spare", "device"] * 2
        found = await rehearse(daemon, "--to", "spare")
        assert (found.code, found.answer["guest_on"]) == (0, "spare")
        status = await daemon.status()
        assert status["device"]["path"] == "spare"
        assert await driver.command(SET_MAC) == 0
        await daemon.told()
        assert {line["device"] for line in daemon.events[-3:]} == {"spare"}
        found = await rehearse(daemon, "--to", "device", "--dry")
        assert (found.code, found.answer["guest_on"]) == (0, "spare")
        assert await daemon.stop() == 0


async def test_a_refusal_is_75_and_says_why(tmp_path: Path) -> None:
    async with instance(tmp_path, spare={"mtu": 1400}) as (daemon, driver):
        found = await rehearse(daemon, "--to", "spare")
        assert (found.code, found.answer["moves"][0]["verdict"]) == (75, "refused")
        assert found.said.startswith("cvqd: device to spare: refused in prepare: ")
        assert found.answer["moves"][0]["reason"] in found.said
        found = await rehearse(daemon, "--to", "device")
        assert found.code == 75
        assert "the guest is on 'device'" in found.said
        assert await driver.command(SET_MAC) == 0


async def test_a_failure_is_1_where_the_guest_is_where_it_was(tmp_path: Path) -> None:
    faults = [{"command": "mac.addr_set", "action": "err"}]
    async with instance(tmp_path, spare={"faults": faults}) as (daemon, driver):
        found = await rehearse(daemon, "--to", "spare", "--back")
        assert (found.code, found.answer["guest_on"]) == (1, "device")
        assert await driver.command(SET_MAC) == 0


async def test_and_2_where_it_could_not_come_back(tmp_path: Path) -> None:
    # spent by the guest's own command, and planned again when the device is opened again
    faults = [{"command": "mac.addr_set", "action": "err"}]
    async with instance(tmp_path, device={"faults": faults}) as (daemon, driver):
        assert await driver.command(SET_MAC) == 1
        found = await rehearse(daemon, "--to", "spare", "--back")
        assert (found.code, found.answer["guest_on"]) == (2, "spare")
        assert await driver.command(SET_MAC) == 0


async def test_a_daemon_that_ends_in_the_middle_asks_for_time_to_take_the_guest_back(tmp_path: Path) -> None:
    silent = {"faults": [{"command": "mac.addr_set", "action": "drop"}]}
    async with ServiceManager(tmp_path / "notify") as manager:
        environment = {"NOTIFY_SOCKET": manager.address}
        async with (
            instance(tmp_path, spare=silent, environment=environment) as (daemon, driver),
            await trio.open_unix_socket(daemon.control) as operator,
        ):
            assert await driver.command(SET_MAC) == 0
            await operator.send_all(b'{"request": "rehearse", "to": "spare"}\n')
            await daemon.event("switchover.phase", phase="indices")
            assert await daemon.stop() == 0
            assert daemon.named("switchover.failed")[0]["guest_on"] == "source"
            assert daemon.named("rehearsal.finished")[0]["verdict"] == "failed"
            while not (last := await manager.told()).get("STOPPING"):
                pass
            # the deadlines of what the source has, of the target's replay and of one on the source again
            assert int(last["EXTEND_TIMEOUT_USEC"]) == 13_000_000


async def test_ctrl_c_says_that_the_rehearsal_goes_on(tmp_path: Path) -> None:
    async with instance(tmp_path) as (daemon, _):
        command = [sys.executable, "-m", "cvqd", "rehearse", "--config", str(daemon.config)]
        words = ("--to", "spare", "--back", "--times", "5")
        async with trio.open_nursery() as nursery:
            mark = len(daemon.events)
            process: trio.Process = await nursery.start(
                partial(
                    trio.run_process,
                    [*command, *words],
                    stderr=subprocess.PIPE,
                    capture_stdout=True,
                    check=False,
                )
            )
            await daemon.event("switchover.finished", after=mark)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            said = b"".join([chunk async for chunk in process.stderr])
        assert process.returncode == 130
        assert said.startswith(b"cvqd: the instance goes on with the rehearsal")
        assert (await daemon.event("rehearsal.finished", after=mark))["moves"] == 10


async def test_a_terminal_sees_how_far_it_is(tmp_path: Path) -> None:
    async with instance(tmp_path) as (daemon, _):
        found = await rehearse(daemon, "--to", "spare", "--back", "--times", "3", terminal=True)
        assert found.code == 0
        assert found.said.count("cvqd: device to spare") == found.said.count("cvqd: spare to device") == 3
        assert found.said.count("replay") == found.said.count("blackout") == 6


def test_a_guest_that_moved_and_left_is_no_guest_to_whom_nothing_happened() -> None:
    moves = [{"verdict": "passed"}]
    assert exit_code({"verdict": "failed", "guest_on": None, "from": "device", "moves": moves}) == 3


def test_a_guest_that_is_nowhere_is_3() -> None:
    assert exit_code({"verdict": "failed", "guest_on": None, "from": "device", "moves": []}) == 3


@pytest.mark.parametrize(("phase", "where"), [("prepare", " in prepare"), ("", "")])
def test_a_refusal_before_any_phase_names_none(phase: str, where: str) -> None:
    move = {"source": "device", "target": "spare", "verdict": "refused", "phase": phase, "reason": "no"}
    said = shortcoming({"verdict": "failed", "reason": None, "moves": [move]})
    assert said == f"device to spare: refused{where}: no"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"event": "state.changed"}, None),
        (
            {"event": "switchover.started", "source": "device", "target": "spare", "kind": "dry"},
            "device to spare, dry",
        ),
        (
            {"event": "switchover.failed", "phase": "replay", "guest_on": "source", "reason": "no"},
            "  replay   failed, the guest is on the source: no",
        ),
        (
            {"event": "switchover.failed", "phase": "", "guest_on": "source", "reason": "no"},
            "  failed, the guest is on the source: no",
        ),
    ],
)
def test_progress_is_in_the_logs_words(line: dict[str, Any], words: str | None) -> None:
    assert progress(line) == words


def test_a_log_that_others_follow_already_is_no_reason_not_to_rehearse(monkeypatch, capsys):
    def full(*_: Any) -> None:
        raise control.ControlError("vm0.control: more than 8 clients follow it", 75)

    monkeypatch.setattr(control, "Following", full)
    monkeypatch.setattr(verb, "_ask", lambda *_: {"verdict": "passed"})
    assert verb._ask_aloud("vm0.control", 1.0, {"to": "spare"}) == {"verdict": "passed"}
    assert "more than 8 clients follow it" in capsys.readouterr().err
