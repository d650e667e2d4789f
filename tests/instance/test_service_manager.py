"""The daemon under a service manager: what it tells, whose sockets it serves, what signals ask of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.frontend import FrontEnd
from cvqd.wire.net_control import OK
from kit.driven_guest import MAC_A, DrivenGuest
from kit.service_manager import ServiceManager

ACTIVATE = shutil.which("systemd-socket-activate")


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return simulator_config(tmp_path)


def under(manager: ServiceManager, **variables: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.address, **variables}


async def test_the_manager_follows_start_reload_and_end(tmp_path: Path, config: dict[str, Any]):
    async with (
        ServiceManager(tmp_path / "notify") as manager,
        DaemonProcess.start(tmp_path, config, environment=under(manager)) as daemon,
    ):
        assert await manager.told() == {"STATUS": f"waits for a front-end at {daemon.socket}"}
        assert await manager.told() == {"READY": "1"}
        async with await FrontEnd.connect(daemon.socket) as front_end:
            await front_end.get_features()
            assert await manager.told() == {"STATUS": "serves a front-end"}
        assert (await manager.told())["STATUS"].startswith("waits for a front-end")

        for content, event in ((config, "service.reloaded"), ("device: [", "service.reload_failed")):
            daemon.config.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
            os.kill(daemon.pid, signal.SIGHUP)
            assert (await manager.told())["RELOADING"] == "1"
            assert await manager.told() == {"READY": "1"}
            await daemon.event(event)

        assert await daemon.stop() == 0
        stopping = await manager.told()
        assert stopping["STOPPING"] == "1"
        # a command's second, and time for the device
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) == 11_000_000
        assert not daemon.stray
    assert "notify.failed" not in {event["event"] for event in daemon.events}


async def test_the_watchdog_gets_signs_of_life_only_where_it_is_asked_for(
    tmp_path: Path, config: dict[str, Any]
):
    async with ServiceManager(tmp_path / "notify") as manager:
        environment = under(manager, WATCHDOG_USEC="200000")
        async with (
            DaemonProcess.start(tmp_path, config, environment=environment) as daemon,
            await FrontEnd.connect(daemon.socket) as front_end,
        ):
            guest = DrivenGuest(front_end)
            try:
                await guest.start()
                for _ in range(3):
                    assert await manager.told_of("WATCHDOG") == {"WATCHDOG": "1"}
            finally:
                guest.close()
            assert await daemon.stop() == 0


async def test_more_signals_on_the_way_to_the_end_change_nothing_about_it(
    tmp_path: Path, config: dict[str, Any]
):
    """timeout(1) sends two."""
    async with DaemonProcess.start(tmp_path, config) as daemon:
        for stage in ("service.started", "service.stopping", "service.stopped"):
            await daemon.until(lambda event, stage=stage: event["event"] == stage, stage)
            for ends in (signal.SIGTERM, signal.SIGINT):
                with suppress(ProcessLookupError):
                    os.kill(daemon.pid, ends)
        assert await daemon.wait() == 0
        assert daemon.events[-1]["event"] == "service.stopped"


async def test_a_second_signal_does_not_cut_off_what_the_first_lets_end(
    tmp_path: Path, config: dict[str, Any]
):
    faults = [{"command": "mac.addr_set", "action": "delay", "delay": "500ms"}]
    config["device"]["faults"] = faults
    async with (
        ServiceManager(tmp_path / "notify") as manager,
        DaemonProcess.start(tmp_path, config, environment=under(manager)) as daemon,
        await FrontEnd.connect(daemon.socket) as front_end,
    ):
        guest = DrivenGuest(front_end)
        try:
            await guest.start()
            acks = []

            async def command() -> None:
                acks.append(await guest.set_mac(MAC_A))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(command)
                await daemon.event("cvq.command.forwarded", command="mac.addr_set")
                os.kill(daemon.pid, signal.SIGTERM)
                assert (await manager.told_of("STOPPING"))["STATUS"] == "ends after SIGTERM"
                for again in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
                    os.kill(daemon.pid, again)
            assert acks == [OK]
        finally:
            guest.close()
        assert await daemon.wait() == 0
        order = [event["event"] for event in daemon.events]
        ends = ["service.stopping", "cvq.command.acked", "device.stopped", "service.stopped"]
        assert [name for name in order if name in ends] == ends
        assert order[-1] == "service.stopped"


async def test_a_signal_puts_the_status_into_the_log(tmp_path: Path, config: dict[str, Any]):
    async with DaemonProcess.start(tmp_path, config) as daemon:
        os.kill(daemon.pid, signal.SIGUSR1)
        reported = await daemon.event("status.reported")
        assert reported["status"] == await daemon.status()
        assert reported["status"]["phase"] == "waiting"
        assert await daemon.stop() == 0


@pytest.fixture
def activate() -> str:
    if ACTIVATE is None:
        if os.environ.get("CVQD_REQUIRE") == "all":
            pytest.fail(
                "CVQD_REQUIRE=all, but systemd-socket-activate is not installed (Debian package systemd)"
            )
        pytest.skip("systemd-socket-activate is not installed")
    return ACTIVATE


def made(path: str) -> bool:
    return Path(path).is_socket()


async def reach(caller: socket.socket, path: str) -> None:
    """Connect as soon as somebody listens, and say something: datagrams have no connection."""
    while True:
        try:
            caller.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            await trio.lowlevel.checkpoint()
        else:
            if caller.type == socket.SOCK_DGRAM:
                caller.send(b"!")
            return


async def test_both_sockets_may_be_the_managers(tmp_path: Path, config: dict[str, Any], activate: str):
    passed = {"frontend": str(tmp_path / "passed.sock"), "control": str(tmp_path / "passed.control")}
    command = [activate, "--listen", passed["frontend"], "--listen", passed["control"]]
    command.append("--fdname=frontend:control")
    caller = socket.socket(socket.AF_UNIX)
    async with trio.open_nursery() as nursery:
        # the first connection starts the daemon, and waits in the backlog until it accepts
        nursery.start_soon(reach, caller, passed["frontend"])
        async with DaemonProcess.start(tmp_path, config, under=command) as daemon:
            started = daemon.named("service.started")[0]
            assert (started["socket"], started["control"]) == (passed["frontend"], passed["control"])
            assert not made(daemon.socket)
            assert not made(daemon.control)
            async with FrontEnd(caller) as front_end:
                assert await front_end.get_features()
                daemon.control = passed["control"]
                assert (await daemon.status())["frontend"]["connected"]
            assert await daemon.stop() == 0
    # whoever made them removes them
    assert all(made(path) for path in passed.values())


@pytest.mark.parametrize(
    ("options", "words", "code", "reason"),
    [
        (["--fdname=frontend"], ["--socket-path", "x"], 78, "frontend: comes from the service manager, and"),
        (["--fdname=vm0"], [], 78, "fd 3 (vm0): FileDescriptorName= must be frontend or control"),
        (["--fdname=control", "--datagram"], [], 73, "fd 3 (control): is no Unix stream socket"),
    ],
    ids=["twice", "unknown", "datagrams"],
)
async def test_a_socket_that_cannot_be_served_ends_the_daemon_by_name(
    tmp_path: Path, activate: str, options: list[str], words: list[str], code: int, reason: str
):
    passed = str(tmp_path / "passed.sock")
    file = tmp_path / "vm0.yaml"
    file.write_text(yaml.safe_dump(simulator_config(tmp_path)))
    daemon = [sys.executable, "-m", "cvqd", "run", "--config", str(file), *words]
    command = [activate, "--listen", passed, *options, *daemon]
    kind = socket.SOCK_DGRAM if "--datagram" in options else socket.SOCK_STREAM
    with trio.fail_after(20), socket.socket(socket.AF_UNIX, kind) as caller:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reach, caller, passed)
            process = await trio.run_process(command, capture_stderr=True, check=False)
    said = process.stderr
    event = json.loads(said.splitlines()[-1])
    assert (event["event"], event["exit_code"], process.returncode) == ("service.failed", code, code)
    assert event["reason"].startswith(reason)
