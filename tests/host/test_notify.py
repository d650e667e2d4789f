from __future__ import annotations

import os
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from cvqd.host.notify import Notifier
from cvqd.testing.events import EventRecorder
from kit.rig import jumping_clock
from kit.service_manager import ServiceManager

if TYPE_CHECKING:
    from pathlib import Path


def notifier(environment: dict[str, str], log: EventRecorder | None = None) -> Notifier:
    return Notifier.from_environment(environment, log or EventRecorder())


@pytest.mark.parametrize("place", ["path", "abstract"])
async def test_each_message_is_one_datagram_of_the_protocol(tmp_path: Path, place: str):
    address = f"@cvqd-test-{os.getpid()}" if place == "abstract" else str(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": address, "PATH": "/bin"}
    async with ServiceManager(address) as manager:
        with closing(notifier(environment)) as tells:
            assert environment == {"PATH": "/bin"}
            await tells.ready()
            assert await manager.told() == {"READY": "1"}
            await tells.status("waits")
            assert await manager.told() == {"STATUS": "waits"}
            await tells.reloading()
            reloading = await manager.told()
            assert set(reloading) == {"RELOADING", "MONOTONIC_USEC"}
            now = time.monotonic_ns() // 1000
            assert 0 <= now - int(reloading["MONOTONIC_USEC"]) < 10_000_000
            await tells.alive()
            assert await manager.told() == {"WATCHDOG": "1"}
            await tells.stopping("ends", within=2.5)
            assert await manager.told() == {
                "STOPPING": "1",
                "STATUS": "ends",
                "EXTEND_TIMEOUT_USEC": "2500000",
            }


async def test_where_nobody_asked_nothing_is_said():
    log = EventRecorder()
    tells = notifier({"WATCHDOG_USEC": "1000000"}, log)
    await tells.ready()
    assert tells.watchdog is None
    tells.close()
    assert log.events == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "OURS"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
        ({}, None),
    ],
)
async def test_the_watchdog_is_fed_where_this_process_is_asked_to(
    tmp_path: Path, variables: dict[str, str], expected: float | None
):
    environment = {name: value.replace("OURS", str(os.getpid())) for name, value in variables.items()}
    environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
    with closing(notifier(environment)) as tells:
        assert tells.watchdog == expected
    assert environment == {}


async def test_a_manager_that_is_not_there_costs_a_log_line(tmp_path: Path):
    log = EventRecorder()
    with closing(notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}, log)) as tells:
        await tells.ready()
    (event,) = log.of("notify.failed")
    assert event["message"] == "READY=1"
    assert "No such file" in str(event["reason"])


async def test_a_manager_that_was_replaced_is_told_all_the_same(tmp_path: Path):
    path = tmp_path / "notify"
    with closing(notifier({"NOTIFY_SOCKET": str(path)})) as tells:
        async with ServiceManager(path) as first:
            await tells.ready()
            assert await first.told() == {"READY": "1"}
        path.unlink()
        async with ServiceManager(path) as second:
            await tells.alive()
            assert await second.told() == {"WATCHDOG": "1"}


@jumping_clock
async def test_a_manager_that_does_not_read_does_not_hold_the_daemon(tmp_path: Path):
    log = EventRecorder()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf,
        closing(notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}, log)) as tells,
    ):
        deaf.bind(str(tmp_path / "notify"))
        while not log.events:
            await tells.alive()
    assert log.of("notify.failed") == [{"message": "WATCHDOG=1", "reason": "not taken within 5 s"}]
