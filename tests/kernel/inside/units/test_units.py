"""The life of an instance under systemd on the kernel's device: chapters of one story, run in this order.

Nothing here waits by the clock: the sockets are systemd's, so whoever connects while the daemon starts
again is served as soon as it is there.
"""

from __future__ import annotations

import grp
import json
import os
import re
import signal
import stat
import subprocess
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.wire.net_control import OK
from kit.driven_guest import MAC_A, DrivenGuest

CHECKOUT = Path(__file__).resolve().parents[4]
UNIT = "cvqd@vm0.service"
FRONTEND, CONTROL = "/run/cvqd/vm0.sock", "/run/cvqd/vm0.control"
NODE = "/dev/vhost-vdpa-0"
STATE = "/var/lib/cvqd/vm0"
CONFIG = Path("/etc/cvqd/vm0.yaml")
CONTENT = "device: {kind: vhost-vdpa, vdpa: vdpa0}\nlog: {level: debug}\n"
DEVICE_UNIT = "sys-subsystem-vdpa-devices-vdpa0.device"
#: sd-daemon(3)
PRIORITIES = {"debug": "7", "info": "6", "warning": "4", "error": "3"}
#: seconds for a start on an emulated processor
START = 150


def does(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=START)


def systemctl(*words):
    done = does("systemctl", *words)
    assert done.returncode == 0, f"{words}: {done.stderr}\n{journal_text()}"
    return done.stdout


def journal_text():
    return does("journalctl", "--sync").stderr + does("journalctl", "-u", UNIT, "--no-pager").stdout


def shown(name):
    return systemctl("show", "--value", "-p", name, UNIT).strip()


def lines():
    """The journal's entries of the unit, the oldest first."""
    does("journalctl", "--sync")
    out = does("journalctl", "-u", UNIT, "-o", "json", "--no-pager").stdout
    return [json.loads(line) for line in out.splitlines()]


def events():
    """The daemon's own lines, as the journal has them: entry and event."""
    own = [entry for entry in lines() if entry["MESSAGE"].startswith("{")]
    return [(entry, json.loads(entry["MESSAGE"])) for entry in own]


def named(name):
    return [event for _, event in events() if event["event"] == name]


class Found(NamedTuple):
    """A file's mode, group and number; all None where there is none."""

    mode: int | None = None
    group: str | None = None
    inode: int | None = None


def found(path):
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return Found()
    return Found(stat.S_IMODE(status.st_mode), grp.getgrgid(status.st_gid).gr_name, status.st_ino)


@asynccontextmanager
async def guest(memory=None):
    """A guest that has a command answered; the daemon may be starting."""
    with trio.fail_after(START):
        async with await FrontEnd.connect(FRONTEND) as front_end:
            driven = DrivenGuest(front_end, memory, pairs=1)
            try:
                await driven.start()
                assert await driven.set_mac(MAC_A) == OK
                yield driven
            finally:
                driven.close()


def bind_to_the_device():
    """What the README says of it, word for word."""
    (drop_in,) = re.findall(
        r"^```ini\n(.*?)^```", (CHECKOUT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert DEVICE_UNIT in drop_in
    folder = Path(f"/etc/systemd/system/{UNIT}.d")
    folder.mkdir()
    (folder / "override.conf").write_text(drop_in)
    systemctl("reenable", UNIT)


async def reached(*states):
    """Return when the unit is in one of these states; the journal has a line for every change of it."""
    command = ["journalctl", "-u", UNIT, "--follow", "--lines=1", "-o", "cat"]
    with trio.fail_after(START):
        async with trio.open_nursery() as nursery:
            journal = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE))
            async for _ in journal.stdout:
                if shown("ActiveState") in states:
                    break
            nursery.cancel_scope.cancel()


def test_one_command_installs_groups_directories_and_access_to_the_nodes():
    assert found(NODE)[:2] == (0o600, "root")
    done = does("sh", str(CHECKOUT / "systemd/install.sh"), "/opt/cvqd/cvqd")
    assert done.returncode == 0, done
    assert "systemctl enable --now cvqd@NAME" in done.stdout
    assert found("/run/cvqd").mode == 0o755
    assert found(NODE)[:2] == (0o660, "kvm")
    CONFIG.write_text(CONTENT)


def test_udev_takes_the_rule_without_a_word_and_tells_systemd_of_the_device():
    told = does("udevadm", "info", "--query=property", "/sys/bus/vdpa/devices/vdpa0").stdout.splitlines()
    assert {f"VHOST_VDPA_NODE={NODE}", "CURRENT_TAGS=:systemd:", "SYSTEMD_READY=1"} <= set(told)
    assert does("systemctl", "is-active", DEVICE_UNIT).stdout == "active\n"
    does("journalctl", "--sync")
    said = does("journalctl", "-u", "systemd-udevd", "-o", "cat", "--no-pager").stdout.splitlines()
    assert said
    assert not [line for line in said if "70-cvqd.rules" in line or line.startswith("vdpa0: ")]


async def test_what_is_enabled_starts_at_boot_and_has_its_sockets():
    systemctl("enable", UNIT)
    # as a boot does, and nothing of ours by its name
    systemctl("start", "sockets.target", "multi-user.target")
    # a target that was reached before does not wait for what it pulls in now
    await reached("active", "failed")
    assert shown("ActiveState") == "active", journal_text()
    assert shown("StatusText") == f"waits for a front-end at {FRONTEND}"
    assert found(FRONTEND)[:2] == (0o660, "kvm")
    assert found(CONTROL)[:2] == (0o660, "cvqd")
    async with guest():
        assert shown("StatusText") == "serves a front-end"


def test_the_process_has_a_user_of_its_own_and_no_privilege_but_the_node():
    process = Path("/proc", shown("MainPID"))
    status = dict(
        line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line
    )
    # by its number: the path is that of a mount which is not seen from here
    assert Path(NODE).stat().st_rdev in {entry.stat().st_rdev for entry in process.glob("fd/*")}
    # systemd.exec(5): the range of dynamic users
    assert all(61184 <= int(user) <= 65519 for user in status["Uid"].split())
    assert str(grp.getgrnam("kvm").gr_gid) in status["Groups"].split()
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_lines_in_the_journal_are_json_with_their_own_priority():
    found = events()
    assert {event["event"] for _, event in found} >= {
        "device.opened",
        "service.started",
        "cvq.command.received",
    }
    assert all(entry["PRIORITY"] == PRIORITIES[event["level"]] for entry, event in found)


def test_a_reload_and_a_question_are_answered_in_the_log():
    CONFIG.write_text(CONTENT + "control_queue: {deadline: 2s}\n")
    systemctl("reload", UNIT)
    systemctl("kill", "--kill-whom=main", "--signal=USR1", UNIT)
    assert does("/opt/cvqd/cvqd", "status", "vm0").returncode == 0
    assert named("service.reloaded")[-1]["changed"] == ["control_queue.deadline"]
    assert named("status.reported")[-1]["status"]["instance"] == "vm0"
    assert shown("ActiveState") == "active", journal_text()


async def test_one_that_is_killed_starts_again_behind_the_same_sockets_and_knows_what_was_set():
    before, number = found(FRONTEND), shown("MainPID")
    # a link to a directory of the dynamic user's, which is another one's the next time
    assert (found(STATE).mode, found(f"{STATE}/state.log").mode) == (0o700, 0o600)
    assert named("state.kept")[-1]["path"] == f"{STATE}/state.log"
    async with guest() as driven:
        os.kill(int(number), signal.SIGKILL)
        with trio.fail_after(START):
            await driven.front_end.hung_up()
    async with guest():
        assert found(FRONTEND) == before
        assert shown("NRestarts") == "1"
        assert shown("MainPID") != number
    (loaded,) = named("state.loaded")
    assert (loaded["path"], loaded["commands"] > 0) == (f"{STATE}/state.log", True)


async def test_one_whose_memory_is_taken_back_says_so_and_starts_again():
    memory = GuestMemory(sealed=False)
    async with guest(memory) as driven:
        os.ftruncate(memory.fileno(), 0)
        driven.driver.control.notify()
        with trio.fail_after(START):
            await driven.front_end.hung_up()
    async with guest():
        assert shown("NRestarts") == "2"
    assert len(named("memory.lost")) == 1
    said = [entry["MESSAGE"] for entry in lines()]
    assert "Fatal Python error: Bus error" in said
    assert any("status=7/BUS" in line for line in said)


@pytest.mark.bad_day(
    "the service manager gets no sign of life",
    guest="its front-end is hung up on; the daemon is ended, started again, and serves who connects",
    log="service.started",
)
async def test_one_that_gives_no_sign_of_life_is_ended_with_a_traceback_and_starts_again():
    # what withholds the sign of a relay that stalls is proven where the clock can jump
    async with guest() as driven:
        os.kill(int(shown("MainPID")), signal.SIGSTOP)
        with trio.fail_after(START):
            await driven.front_end.hung_up()
    async with guest():
        assert shown("NRestarts") == "3"
    assert len(named("service.started")) == 4
    said = [entry["MESSAGE"] for entry in lines()]
    assert any("Watchdog timeout" in line for line in said)
    assert "Fatal Python error: Aborted" in said


async def test_a_stop_answers_and_ends_in_order_and_the_sockets_go_with_theirs():
    async with guest():
        systemctl("stop", "cvqd@vm0.socket")
    assert shown("ActiveState") == "inactive"
    assert shown("Result") == "success"
    assert found(FRONTEND) == found(CONTROL) == Found()
    ends = ["service.stopping", "device.stopped", "frontend.disconnected", "service.stopped"]
    told = [event["event"] for _, event in events() if event["event"] in ends]
    assert told[-4:] == ends


async def test_a_front_end_that_connects_starts_it():
    systemctl("start", "cvqd@vm0.socket")
    assert shown("ActiveState") == "inactive"
    async with guest():
        assert shown("ActiveState") == "active"


async def test_one_that_is_bound_to_its_device_ends_and_starts_with_it_whatever_its_number():
    bind_to_the_device()
    assert does("vdpa", "dev", "del", "vdpa0").returncode == 0
    # failed if it was quicker than the news of the removal, which has systemd stop it
    await reached("inactive", "failed")
    assert len(named("device.removed")) == 1
    for name in ("another", "vdpa0"):
        assert does("vdpa", "dev", "add", "name", name, "mgmtdev", "vdpasim_net").returncode == 0
    await reached("active")
    assert named("device.opened")[-1]["path"] == "/dev/vhost-vdpa-1"


def test_all_instances_stop_as_one():
    # nobody has started it: instances are its own all the same
    assert does("systemctl", "is-active", "cvqd.target").stdout == "inactive\n"
    systemctl("stop", "cvqd.target")
    assert shown("ActiveState") in ("deactivating", "inactive")
    # the target is gone at once; this waits for the rest
    systemctl("stop", UNIT, "cvqd@vm0.socket")
    assert shown("ActiveState") == "inactive"
    assert found(FRONTEND) == Found()


def test_a_configuration_with_a_mistake_is_not_tried_again():
    CONFIG.write_text("device: {kind: vhost-vdpa}\n")
    assert does("systemctl", "start", UNIT).returncode != 0
    assert shown("ExecMainStatus") == "78"
    assert shown("ActiveState") == "failed"
    assert any("vm0.yaml:1:9: device" in entry["MESSAGE"] for entry in lines())
