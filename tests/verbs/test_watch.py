"""``cvqd watch``: what the screen shows, and that the terminal is given back."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.frontend import FrontEnd
from cvqd.text import event_text
from cvqd.text.paint import PLAIN, Paint
from cvqd.text.watch_screen import View, screen
from kit.driven_guest import MAC_A, DrivenGuest
from kit.rig import Rig
from kit.verb_process import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
EVENT = {
    "schema": 1,
    "ts": "2026-11-22T19:33:46.988Z",
    "mono_ns": 5,
    "seq": 9,
    "run_id": "x",
    "instance": "vm0",
    "device": "simulator",
    "level": "warning",
    "event": "cvq.command.refused",
    "command_id": 89,
    "reason": "site.vlan",
}


def answers(**counts: int) -> dict[str, Any]:
    return {"counters": {"answers": {"vlan.add": counts}}}


# the screen


async def test_the_screen_shows_an_instances_state(tmp_path: Path):
    view = View("vm0")
    async with Rig.opened(tmp_path) as rig, rig.guest() as guest:
        await guest.start()
        await guest.set_mac(MAC_A)
        view.take(rig.status, 1.0)
    view.events.append(EVENT)
    lines = screen(view, "19:33:47", 80, 24, PLAIN)
    assert lines[0].startswith("vm0  running  simulator  ")
    assert lines[0].endswith("19:33:47 UTC  q: quit")
    assert len(lines[0]) == 80
    text = "\n".join(lines)
    assert "front-end   connected\nisolation   isolated\n" in text
    assert "mac 52:54:00:aa:00:01, pairs 1" in text
    assert re.search(r"^command +ok +/s\nmac.addr_set +1$", text, re.MULTILINE)
    assert lines[-1].startswith("19:33:46.988  warning  cvq.command.refused     command_id=89 reason=")


def test_rates_are_of_the_time_between_two_looks():
    view = View("vm0")
    view.take(answers(ok=100), 1e9)
    assert view.rates == {}
    view.take(answers(ok=103, err=1, late=7), 2.0)
    assert view.rates == {"vlan.add": 2.0}, "a late answer is no command"
    view.take(answers(ok=1), 1.0)
    assert view.rates == {}, "another run of the instance"


def test_what_is_missing_is_said():
    view = View("vm0", missing="the instance has ended; waiting for it")
    lines = screen(view, "", 80, 24, PLAIN)
    assert lines[0].startswith("vm0  gone")
    assert lines[1] == "the instance has ended; waiting for it"


@given(
    width=st.integers(1, 200),
    height=st.integers(1, 60),
    commands=st.integers(0, 30),
    events=st.integers(0, 100),
    missing=st.booleans(),
)
def test_it_fits_any_terminal(width: int, height: int, commands: int, events: int, *, missing: bool):
    view = View("a" * 30)
    view.take({"counters": {"answers": {f"class_{n}.1": {"ok": n + 1} for n in range(commands)}}}, 1.0)
    view.events.extend([EVENT] * events)
    view.missing = "gone" * 40 if missing else ""
    plain = screen(view, "00:00:00", width, height, PLAIN)
    assert 1 <= len(plain) <= height
    assert max(map(len, plain)) <= width
    coloured = screen(view, "00:00:00", width, height, Paint(on=True))
    assert [_SEQUENCE.sub("", line) for line in coloured] == plain


@pytest.mark.parametrize(("height", "rows"), [(10, 0), (14, 0), (15, 3), (40, 9)])
def test_a_table_is_shown_where_a_command_fits_into_it(height: int, rows: int):
    view = View("vm0")
    view.take({"counters": {"answers": {f"class_{n}.1": {"ok": 9 - n} for n in range(8)}}}, 1.0)
    view.events.extend([EVENT] * 50)
    shown = screen(view, "00:00:00", 80, height, PLAIN)
    assert len([line for line in shown if line.startswith(("command ", "class_", "…"))]) == rows
    assert len(shown) == height


def test_an_event_is_a_line_without_what_all_lines_have():
    assert event_text.as_line(EVENT) == (
        "19:33:46.988  warning  cvq.command.refused     command_id=89 reason=site.vlan"
    )
    assert "2 lines are missing here" in event_text.as_line({"lost": 2})
    assert "\x1b" not in event_text.as_line({**EVENT, "reason": "\x1b[2J"})
    assert event_text.as_line(EVENT, 20) == "19:33:46.988  warnin"


# the terminal


class Watched:
    """``cvqd watch`` on a terminal that this test plays."""

    def __init__(self, process: subprocess.Popen[bytes], master: int, slave: int) -> None:
        self.process = process
        self.slave = slave
        self.master = master
        self._seen = ""

    async def until(self, pattern: str) -> str:
        """The first drawing from now on that has this in it, as plain text."""
        while True:
            *frames, self._seen = re.split(r"(?=\x1b\[H)", self._seen)
            for frame in frames:
                plain = _SEQUENCE.sub("", frame)
                if re.search(pattern, plain):
                    return plain.replace("\r\n", "\n")
            await trio.lowlevel.wait_readable(self.master)
            self._seen += os.read(self.master, 1 << 16).decode()

    async def rest(self) -> str:
        """All that is left once the program has ended."""
        await trio.to_thread.run_sync(self.process.wait)
        os.set_blocking(self.master, False)
        try:
            while data := os.read(self.master, 1 << 16):
                self._seen += data.decode()
        except BlockingIOError:
            pass
        return self._seen

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)


@asynccontextmanager
async def watching(daemon: DaemonProcess) -> AsyncIterator[Watched]:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(  # noqa: ASYNC220 -- a terminal is no pipe, and who plays it reads it
        [sys.executable, "-m", "cvqd", "watch", "--config", str(daemon.config)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm"},
    )
    try:
        yield Watched(process, master, slave)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


async def test_a_terminal_follows_the_instance_and_is_given_back(tmp_path: Path):
    with trio.fail_after(40):
        async with (
            DaemonProcess.start(tmp_path, simulator_config(tmp_path)) as daemon,
            watching(daemon) as watched,
        ):
            before = termios.tcgetattr(watched.slave)
            assert "front-end   none" in await watched.until("vm0  waiting  simulator")
            assert termios.tcgetattr(watched.slave) != before, "single keys are read"
            async with await FrontEnd.connect(daemon.socket) as front_end:
                guest = DrivenGuest(front_end)
                await guest.start()
                assert await guest.set_mac(MAC_A) == 0
                await watched.until(r"cvq.command.acked +command_id=1 command=mac.addr_set")
                shown = await watched.until("mac 52:54:00:aa:00:01")
                assert re.search(r"mac.addr_set +1( |$)", shown, re.MULTILINE)
                watched.resize(40, 10)
                await watched.until(r"\A.{40}\r\n(.{0,40}(\r\n|$)){0,9}\Z")
                guest.close()
            watched.type("xyq")
            assert (await watched.rest()).endswith("\x1b[?25h\x1b[?1049l")
            assert watched.process.returncode == 0
            assert termios.tcgetattr(watched.slave) == before


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
async def test_a_signal_gives_the_terminal_back_too(tmp_path: Path, number: signal.Signals, code: int):
    with trio.fail_after(40):
        async with (
            DaemonProcess.start(tmp_path, simulator_config(tmp_path)) as daemon,
            watching(daemon) as watched,
        ):
            before = termios.tcgetattr(watched.slave)
            await watched.until("vm0")
            watched.process.send_signal(number)
            assert (await watched.rest()).endswith("\x1b[?25h\x1b[?1049l")
            assert watched.process.returncode == code
            assert termios.tcgetattr(watched.slave) == before


async def test_while_it_is_stopped_the_terminal_is_the_shells(tmp_path: Path):
    with trio.fail_after(40):
        async with (
            DaemonProcess.start(tmp_path, simulator_config(tmp_path)) as daemon,
            watching(daemon) as watched,
        ):
            before = termios.tcgetattr(watched.slave)
            await watched.until("vm0")
            watched.process.send_signal(signal.SIGTSTP)
            await trio.to_thread.run_sync(os.waitid, os.P_PID, watched.process.pid, os.WSTOPPED)
            assert termios.tcgetattr(watched.slave) == before
            watched.process.send_signal(signal.SIGCONT)
            await watched.until("vm0")
            watched.type("q")
            await watched.rest()
            assert watched.process.returncode == 0


async def test_the_screen_waits_for_an_instance_that_ends(tmp_path: Path):
    config = simulator_config(tmp_path)
    with trio.fail_after(40):
        async with DaemonProcess.start(tmp_path, config) as daemon, watching(daemon) as watched:
            await watched.until("vm0  waiting")
            assert await daemon.stop() == 0
            shown = await watched.until("vm0  gone")
            assert "waiting for it" in shown
            async with DaemonProcess.start(tmp_path, config):
                await watched.until("vm0  waiting")


async def test_without_a_terminal_there_is_a_line_per_event_until_the_end(tmp_path: Path):
    with trio.fail_after(40):
        async with DaemonProcess.start(tmp_path, simulator_config(tmp_path)) as daemon:
            words = ("watch", "--config", str(daemon.config))
            async with running(*words, greeting="cvqd: following vm0; times are UTC") as watch:
                async with await FrontEnd.connect(daemon.socket):
                    await daemon.event("frontend.connected")
                assert await daemon.stop() == 0
                assert await watch.wait() == 69
                shown = (await watch.out()).decode().splitlines()
                assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}  info     frontend\.connected", shown[0])
                assert any(line.endswith("  service.stopping        signal=SIGTERM") for line in shown)
                assert await watch.err() == b"cvqd: the instance has ended\n"
