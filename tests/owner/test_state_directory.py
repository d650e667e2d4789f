"""What ``state.directory`` means where it cannot be used: asked for, or only the default."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from cvqd.config import parse
from cvqd.errors import StateError
from cvqd.owner import state_log
from cvqd.testing.daemon import DaemonError, DaemonProcess, simulator_config
from cvqd.testing.events import EventRecorder

if TYPE_CHECKING:
    from pathlib import Path

SIMULATOR = "device: {kind: simulator}\n"


def test_the_default_is_used_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(state_log, "DEFAULT_STATE", f"{tmp_path}/{{instance}}")
    log = EventRecorder()
    with closing(state_log.keep_state(parse(SIMULATOR, "vm7.yaml"), log)) as kept:
        assert kept.path == f"{tmp_path}/vm7/state.log"
    assert log.names() == ["state.kept"]


def test_without_a_word_about_it_a_daemon_goes_on_where_it_cannot_keep_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(state_log, "DEFAULT_STATE", f"{tmp_path}/file/{{instance}}")
    log = EventRecorder()
    with closing(state_log.keep_state(parse(SIMULATOR, "vm7.yaml"), log)) as kept:
        assert kept.path is None
        assert kept.reason == f"{tmp_path}/file/vm7: Not a directory"
    assert log.names() == ["state.not_kept"]


def test_a_directory_that_was_asked_for_is_insisted_on(tmp_path: Path):
    (tmp_path / "file").write_text("")
    config = parse(f"{SIMULATOR}state: {{directory: {tmp_path}/file/vm7}}\n", "vm7.yaml")
    with pytest.raises(StateError, match="Not a directory"):
        state_log.keep_state(config, EventRecorder())


async def ended(directory: Path, config: dict[str, Any], name: str = "vm0") -> str:
    """Exit code and last words of a daemon that cannot start."""
    with pytest.raises(DaemonError) as caught:
        async with DaemonProcess.start(directory, config, name=name):
            pass
    return str(caught.value)


async def test_a_start_without_the_directory_or_with_another_process_in_it_ends(tmp_path: Path):
    config = simulator_config(tmp_path)
    (tmp_path / "file").write_text("")
    said = await ended(tmp_path, config | {"state": {"directory": str(tmp_path / "file")}})
    assert '"exit_code": 73' in said
    assert "StateError" in said
    async with DaemonProcess.start(tmp_path, config) as first:
        status = await first.status()
        assert status["state_log"] == {"path": config["state"]["directory"] + "/state.log", "reason": ""}
        other = simulator_config(tmp_path, sockets="vm1") | {"state": config["state"]}
        said = await ended(tmp_path, other, name="vm1")
        assert '"exit_code": 75' in said
        assert "another process keeps its state there" in said
