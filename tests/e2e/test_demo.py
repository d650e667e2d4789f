from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from cvqd import demo
from cvqd.demo.story import Stage
from cvqd.testing import uml_kernel
from cvqd.testing.daemon import simulator_config

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def no_uml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uml_kernel, "SEARCH", "/nonexistent")


def refuse(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Have the device of the demonstration answer one command with an error."""

    def config(directory: Path) -> dict[str, Any]:
        return simulator_config(directory, faults=[{"command": command, "action": "err"}])

    monkeypatch.setattr(demo, "simulator_config", config)


@pytest.mark.guest
def test_the_demonstration_with_a_linux_guest_holds_in_plain_text() -> None:
    played = subprocess.run(
        [sys.executable, "-m", "cvqd", "demo"], capture_output=True, text=True, timeout=60, check=False
    )
    assert played.returncode == 0, played.stdout + played.stderr
    assert played.stderr == ""
    assert "\x1b" not in played.stdout
    assert "FAILED" not in played.stdout
    assert "User Mode Linux" in played.stdout
    assert played.stdout.count("✓") >= 20
    assert max(map(len, played.stdout.splitlines())) <= 100


@pytest.mark.usefixtures("no_uml")
def test_without_user_mode_linux_the_shipped_driver_plays_the_guest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert demo.main() == 0
    said = capsys.readouterr().out
    assert "needs the packages user-mode-linux" in said
    assert "cvqd's own guest driver" in said
    assert said.count("✓") >= 20


async def test_a_reader_that_leaves_leaves_no_step_behind() -> None:
    """A coroutine that never began would be warned of on the terminal of ``cvqd demo | head``."""

    async def step() -> str:
        return ""

    stage = Stage(Mock(title=Mock(side_effect=BrokenPipeError)), Mock(), Mock())
    action = step()
    with pytest.raises(BrokenPipeError):
        await stage.act("a title that nobody reads", action)
    assert inspect.getcoroutinestate(action) == inspect.CORO_CLOSED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_demonstration_that_is_ended_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    waits = """
import sys, trio
from cvqd import cli, demo
async def tell(screen, daemon, enter):
    print(daemon.pid, flush=True)
    await trio.sleep_forever()
demo.tell = tell
sys.exit(cli.main(["demo"]))
"""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE, env=environment) as played:
        assert played.stdout is not None
        daemon = next(int(line) for line in played.stdout if line.strip().isdigit())
        played.send_signal(number)
        try:
            assert played.wait(20) == 130
        finally:
            with suppress(ProcessLookupError):
                os.kill(daemon, signal.SIGKILL)
                pytest.fail("the daemon was left behind")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_uml")
@pytest.mark.parametrize("command", ["rx.promisc", "mac.addr_set", "mq.vq_pairs_set", "vlan.add", "vlan.del"])
def test_the_demonstration_fails_when_the_device_refuses_a_command(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(monkeypatch, command)
    assert demo.main() == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.guest
def test_the_demonstration_fails_when_the_device_refuses_a_linux_guest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(monkeypatch, "mac.addr_set")
    assert demo.main() == 1
    said = capsys.readouterr().out
    assert "RTNETLINK answers: Invalid argument" in said
