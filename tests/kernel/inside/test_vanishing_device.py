"""``vdpa dev del`` under a running guest: it returns promptly, because the daemon lets go."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import trio

from cvqd.host.vdpa_node import find_node
from cvqd.testing.daemon import DaemonProcess
from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.wire.net_control import OK, MacAddrSet
from cvqd.wire.virtio import Feature

NAME = "vdpa8"
SET_MAC = MacAddrSet(bytes.fromhex("525411abcdef")).encode()
#: seconds that the daemon has, on an emulated processor
PROMPT = 2.0


@pytest.fixture
def vanishing():
    """A device that the test may remove."""
    Path("/sys/module/vdpa_sim_net/parameters/pairs").write_text("1")
    add = ["vdpa", "dev", "add", "name", NAME, "mgmtdev", "vdpasim_net", "mac", "52:54:11:22:33:08"]
    subprocess.run(add, check=True)
    yield NAME
    if Path(f"/sys/bus/vdpa/devices/{NAME}").exists():
        subprocess.run(["vdpa", "dev", "del", NAME], check=True, timeout=30)


async def remove(name):
    """Seconds until the kernel had removed it."""
    begun = time.monotonic()
    with trio.fail_after(20):
        await trio.run_process(["vdpa", "dev", "del", name])
    return time.monotonic() - begun


def config(directory):
    return {
        "device": {"kind": "vhost-vdpa", "vdpa": NAME},
        "frontend": {"socket": str(directory / "vm0.sock")},
        "control": {"socket": str(directory / "vm0.control")},
        "state": {"directory": str(directory / "vm0.state")},
        "log": {"level": "debug", "format": "json"},
    }


@pytest.mark.bad_day(
    "the device is removed (`vdpa dev del`)",
    guest="commands in flight answered, then its front-end is hung up on, within two seconds",
    log="device.removed, service.failed",
)
async def test_a_device_that_is_removed_under_a_guest_is_let_go_at_once(vanishing, tmp_path):
    node = find_node(vanishing)
    async with DaemonProcess.start(tmp_path, config(tmp_path), deadline=60) as daemon:
        async with await FrontEnd.connect(daemon.socket) as front_end:
            with GuestMemory(8 << 20) as memory, NetDriver(memory, 1, 64) as driver:
                driver.front_end = front_end
                features = await front_end.get_features() & ~Feature.PROTOCOL_FEATURES.mask
                await front_end.play(ORDERS["qemu"].connect(driver.setup(features)))
                await front_end.play(ORDERS["qemu"].start(driver.setup(features)))
                assert await driver.command(SET_MAC) == OK
                head = driver.post_command(SET_MAC)
                driver.control.notify()
                assert await remove(vanishing) < PROMPT
                # answered, then hung up on
                with trio.fail_after(5):
                    assert (await driver.control.wait()).head == head
                    assert driver.take_ack(head) == OK
                    await front_end.hung_up()
        assert await daemon.wait(deadline=20) == 69
    (removed,) = daemon.named("device.removed")
    (failed,) = daemon.named("service.failed")
    assert removed["path"] == node
    assert failed["exit_code"] == 69
    assert failed["reason"] == f"{node}: the device was removed"
    assert failed["mono_ns"] - removed["mono_ns"] < PROMPT * 1e9


async def test_a_device_that_nobody_uses_yet_can_be_removed_too(vanishing, tmp_path):
    async with DaemonProcess.start(tmp_path, config(tmp_path), deadline=60) as daemon:
        assert await remove(vanishing) < PROMPT
        assert await daemon.wait(deadline=20) == 69
        assert daemon.named("device.removed")
