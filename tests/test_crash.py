"""What kills the daemon is told: by the daemon where it can, by its traceback where it cannot."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.wire.net_control import OK
from kit.driven_guest import MAC_A, DrivenGuest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.bad_day(
    "a front-end takes back memory that it lent",
    guest="its network stops until the service manager has started the daemon again and it connects",
    log="memory.lost",
)
async def test_memory_that_shrinks_is_a_clear_death(tmp_path: Path):
    async with (
        DaemonProcess.start(tmp_path, simulator_config(tmp_path)) as daemon,
        await FrontEnd.connect(daemon.socket) as front_end,
    ):
        guest = DrivenGuest(front_end, GuestMemory(sealed=False))
        try:
            await guest.start()
            assert await guest.set_mac(MAC_A) == OK
            os.ftruncate(guest.memory.fileno(), 0)
            assert guest.driver.control is not None
            guest.driver.control.notify()
            assert await daemon.wait() == -signal.SIGBUS
        finally:
            guest.close()
        lost = await daemon.event("memory.lost")
        assert lost["level"] == "error"
        assert lost["where"].startswith("cvqd.")
        # the last event, and behind it the traceback that says who asked for the memory
        assert daemon.events[-1] is lost
        assert "Fatal Python error: Bus error" in daemon.stray
        assert any("relay.py" in line for line in daemon.stray)


async def test_what_the_watchdog_kills_says_where_it_stood(tmp_path: Path):
    async with DaemonProcess.start(tmp_path, simulator_config(tmp_path)) as daemon:
        os.kill(daemon.pid, signal.SIGABRT)
        assert await daemon.wait() == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in daemon.stray
        assert any(line.startswith("Current thread") for line in daemon.stray)
