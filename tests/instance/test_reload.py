"""SIGHUP: what takes effect in a running daemon, what is named and kept, and a file with mistakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import yaml

from cvqd.config import parse
from cvqd.host.notify import Notifier
from cvqd.instance.reload import Reloader, differences
from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.events import EventRecorder
from cvqd.testing.frontend import FrontEnd
from cvqd.wire.net_control import ERR, OK
from kit.driven_guest import MAC_A, DrivenGuest
from kit.service_manager import ServiceManager

if TYPE_CHECKING:
    from pathlib import Path

    from cvqd.core.site_policy import SitePolicy

MAC_B = bytes.fromhex("0200000000bb")
MINIMAL = "device: {kind: simulator, mac: 52:54:00:12:34:56}\n"
FIXED = "read only when the daemon starts"


class Owner:
    """What a reload asks of a device's owner, in the order asked."""

    def __init__(self, log: EventRecorder) -> None:
        self.log = log
        self.amended: list[tuple[SitePolicy, float]] = []

    def amend(self, *, site: SitePolicy, deadline: float) -> None:
        self.amended.append((site, deadline))

    def check_site(self) -> None:
        assert self.log.names()[-1] != "service.reload_failed"


class Log(EventRecorder):
    level = "info"

    def set_level(self, level: str) -> None:
        self.level = level


def reloader(file: Path) -> tuple[Reloader, Owner, Log]:
    file.write_text(MINIMAL)
    log = Log()
    owner = Owner(log)
    config = parse(MINIMAL, str(file))
    return Reloader(str(file), config, owner, log, Notifier(None, log)), owner, log  # type: ignore[arg-type]


def test_differences_are_told_by_key_in_the_files_order():
    old = parse(MINIMAL, "vm0.yaml")
    new = parse(
        MINIMAL.replace("56", "57")
        + "log: {level: debug}\npolicy: {mac_table: {unicast: 3}, promiscuous: refused}\nisolation: prefer\n",
        "vm0.yaml",
    )
    assert list(differences(old, old)) == []
    assert list(differences(old, new)) == [
        "device.mac",
        "isolation",
        "policy.promiscuous",
        "policy.mac_table.unicast",
        "log.level",
    ]
    other = parse("device: {kind: vhost-vdpa, path: /dev/vhost-vdpa-0}\n", "vm0.yaml")
    assert list(differences(old, other)) == ["device"]


async def test_what_can_change_does_and_what_cannot_is_named_each_time(tmp_path: Path) -> None:
    file = tmp_path / "vm0.yaml"
    reload, owner, log = reloader(file)
    file.write_text(
        MINIMAL
        + "policy: {pairs: 1}\ncontrol_queue: {deadline: 2s, max_command: 1KiB}\nlog: {level: debug}\n"
        "state: {directory: /elsewhere}\nfrontend: {mode: '0600'}\n"
    )
    await reload.reload()
    assert [(site.pairs, deadline) for site, deadline in owner.amended] == [(1, 2.0)]
    assert log.level == "debug"
    changed = ["control_queue.deadline", "policy.pairs", "log.level"]
    kept = ["frontend.mode", "control_queue.max_command", "state.directory"]
    assert log.events == [
        ("service.reloaded", {"changed": changed}, None),
        ("service.reload_refused", {"keys": kept, "reason": FIXED}, None),
    ]
    assert reload.config.state.directory != "/elsewhere"

    log.events.clear()
    await reload.reload()
    assert log.events == [
        ("service.reloaded", {"changed": []}, None),
        ("service.reload_refused", {"keys": kept, "reason": FIXED}, None),
    ]
    log.events.clear()
    file.write_text(MINIMAL)
    await reload.reload()
    assert log.events == [("service.reloaded", {"changed": changed}, None)]
    assert owner.amended[-1][0].pairs is None
    assert log.level == "info"


async def test_a_file_with_a_mistake_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "vm0.yaml"
    reload, owner, log = reloader(file)
    before = reload.config
    file.write_text(MINIMAL + "policy: {pairs: none}\nlog: {level: loud}\n")
    await reload.reload()
    (event,) = log.events
    assert event.name == "service.reload_failed"
    assert event.fields["problems"] == [
        f"{file}:2:17: policy.pairs: 'none' is not a whole number",
        f"{file}:3:14: log.level: 'loud' is not one of debug, info, warning, error",
    ]
    file.unlink()
    await reload.reload()
    assert log.events[-1].fields["problems"] == [f"{file}:1:1: file: No such file or directory"]
    assert (owner.amended, log.level, reload.config) == ([], "info", before)


async def hang_up(daemon: DaemonProcess, content: dict[str, Any] | str, event: str) -> dict[str, Any]:
    """Write the daemon's file, ask it to reload, and wait for what it says."""
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    daemon.config.write_text(text)
    mark = len(daemon.events)
    os.kill(daemon.pid, signal.SIGHUP)
    return await daemon.event(event, after=mark)


async def test_a_running_daemon_takes_other_rules_at_a_signal(tmp_path: Path) -> None:
    content = simulator_config(tmp_path) | {"policy": {"mac": {"change": ["52:54:00:*"]}}}
    async with (
        DaemonProcess.start(tmp_path, content) as daemon,
        await FrontEnd.connect(daemon.socket) as front_end,
    ):
        guest = DrivenGuest(front_end)
        try:
            await guest.start()
            assert await guest.set_mac(MAC_A) == OK
            assert await guest.set_mac(MAC_B) == ERR
            refused = await daemon.event("cvq.command.refused")
            assert (refused["command"], refused["reason"]) == ("mac.addr_set", "site.mac")
            assert refused["detail"] == "the guest may not take 02:00:00:00:00:bb"
            assert refused["level"] == "warning"

            failed = await hang_up(daemon, "device: {kind: simulator}\npolicy: [", "service.reload_failed")
            assert failed["level"] == "error"
            assert failed["problems"][0].startswith(f"{daemon.config}:2:10: yaml: ")
            assert await guest.set_mac(MAC_B) == ERR

            content["policy"] = {"mac": {"change": "allowed"}}
            content["isolation"] = "prefer"
            reloaded = await hang_up(daemon, content, "service.reloaded")
            assert reloaded["changed"] == ["policy.mac.change"]
            kept = await daemon.event("service.reload_refused")
            assert (kept["keys"], kept["reason"]) == (["isolation"], FIXED)
            assert await guest.set_mac(MAC_B) == OK
            assert (await daemon.status())["state"]["mac"] == MAC_B.hex(":")

            content["policy"] = {"mac": {"change": "refused"}}
            content["log"]["level"] = "warning"
            await hang_up(daemon, content, "policy.exceeded")
            mark = len(daemon.events)
            assert await guest.set_mac(MAC_A) == ERR
            await daemon.event("cvq.command.refused", after=mark)
            assert {event["level"] for event in daemon.events[mark:]} == {"warning"}
        finally:
            guest.close()
        assert await daemon.stop() == 0
        assert not daemon.stray


async def test_a_file_that_cannot_be_read_to_its_end_does_not_hold_the_end(tmp_path: Path) -> None:
    async with (
        ServiceManager(tmp_path / "notify") as manager,
        DaemonProcess.start(
            tmp_path, simulator_config(tmp_path), environment={"NOTIFY_SOCKET": manager.address}
        ) as daemon,
    ):
        # a pipe that nobody writes to, as any file on a server that is gone
        daemon.config.unlink()
        os.mkfifo(daemon.config)
        os.kill(daemon.pid, signal.SIGHUP)
        await manager.told_of("RELOADING")
        assert await daemon.stop() == 0
        assert daemon.events[-1]["event"] == "service.stopped"


def test_a_hang_up_does_not_end_a_daemon_that_starts(tmp_path: Path) -> None:
    # a file that is there only when somebody writes it: the daemon waits in the middle of its start
    file = tmp_path / "vm0.yaml"
    os.mkfifo(file)
    command = [sys.executable, "-m", "cvqd", "run", "--config", str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        with file.open("w") as writer:
            daemon.send_signal(signal.SIGHUP)
            writer.write("log: {}\n")
        assert daemon.stderr is not None
        assert daemon.stderr.read() == f"{file}:1:1: device: missing\n"
    assert daemon.returncode == 78


async def test_hang_ups_never_end_a_daemon_not_even_one_that_ends(tmp_path: Path) -> None:
    content = simulator_config(tmp_path)
    async with DaemonProcess.start(tmp_path, content) as daemon:
        for _ in range(50):
            os.kill(daemon.pid, signal.SIGHUP)
        await daemon.event("service.reloaded")
        os.kill(daemon.pid, signal.SIGTERM)
        for _ in range(50):
            os.kill(daemon.pid, signal.SIGHUP)
        assert await daemon.wait() == 0
        assert daemon.events[-1]["event"] == "service.stopped"
