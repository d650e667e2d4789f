"""The state directory lies on a disk that is full, or becomes so."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cvqd.testing.daemon import DaemonError, DaemonProcess, simulator_config
from cvqd.testing.frontend import FrontEnd
from cvqd.wire.net_control import OK
from kit.driven_guest import DrivenGuest


def on_a_disk_of(size: str, place: Path) -> list[str]:
    """What becomes a command that finds a disk of its own mounted here."""
    own = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = f'mount -t tmpfs -o size={size} none "{place}" && exec "$@"'
    return ["unshare", "--mount", *own, "sh", "-c", script, "sh"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "disk"
    made.mkdir()
    if subprocess.run([*on_a_disk_of("1m", made), "true"], check=False, capture_output=True).returncode:
        if os.environ.get("CVQD_REQUIRE") == "all":
            pytest.fail("CVQD_REQUIRE=all, but a process cannot have a mount of its own here")
        pytest.skip("a process cannot have a mount of its own here")
    return made


@pytest.fixture
def config(tmp_path: Path, place: Path) -> dict[str, Any]:
    return simulator_config(tmp_path) | {"state": {"directory": str(place / "vm0")}, "log": {"level": "info"}}


@pytest.mark.bad_day(
    "the disk is full under `state.directory`, at the start",
    guest="it waits until there is room: the service manager tries again",
    log="service.failed",
)
async def test_a_daemon_that_is_to_keep_state_does_not_start_without_room(
    tmp_path: Path, place: Path, config: dict[str, Any]
):
    with pytest.raises(DaemonError) as caught:
        async with DaemonProcess.start(tmp_path, config, under=on_a_disk_of("64k", place)):
            pass
    said = str(caught.value)
    assert "service.failed" in said
    assert f"{place}/vm0/state.log: No space left on device" in said
    assert '"exit_code": 73' in said


def fill(disk: Path) -> None:
    room = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(room.f_bavail * room.f_bsize))
    assert os.statvfs(disk).f_bavail == 0


@pytest.mark.bad_day(
    "the disk fills up under `state.directory`, later",
    guest="nothing: the room was reserved",
    log="cvq.command.acked",
)
async def test_a_daemon_that_runs_needs_no_more_room(tmp_path: Path, place: Path, config: dict[str, Any]):
    async with (
        DaemonProcess.start(tmp_path, config, under=on_a_disk_of("4m", place)) as daemon,
        await FrontEnd.connect(daemon.socket) as front_end,
    ):
        fill(Path(f"/proc/{daemon.pid}/root{place}"))
        guest = DrivenGuest(front_end)
        try:
            await guest.start()
            # more than the log holds without being compacted
            for number in range(3000):
                assert await guest.set_mac(bytes((2, 0, 0, 0, *number.to_bytes(2, "big")))) == OK
        finally:
            guest.close()
        await daemon.event("cvq.command.acked")
        assert await daemon.stop() == 0
