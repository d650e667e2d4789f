"""A Linux guest hears of what happens to its device."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from cvqd.simulator.spec import SimulatorSpec
from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.uml import UmlGuest
from kit.rig import Rig

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

pytestmark = pytest.mark.guest

OWN = "52:54:00:12:34:56"
ADDRESS = "10.9.8.7"
ARP = b"\x08\x06"


def gratuitous(frame: bytes) -> bool:
    """An ARP frame to everybody in which the sender asks for its own address, RFC 5227 §3."""
    sender, target = frame[28:32], frame[38:42]
    return frame[:6] == b"\xff" * 6 and frame[12:14] == ARP and sender == target == socket.inet_aton(ADDRESS)


async def cvqd_announce(daemon: DaemonProcess) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "cvqd", "announce", "--config", str(daemon.config)]
    return await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True)


async def test_cvqd_announce_makes_the_guest_announce_itself_and_acknowledge(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "network", tmp_path / "device"
    content = simulator_config(
        tmp_path, mac=OWN, datapath={"kind": "peer", "bind": str(theirs), "connect": str(ours)}
    )
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as network:
        await network.bind(str(ours))
        async with DaemonProcess.start(tmp_path, content) as daemon:
            refused = await cvqd_announce(daemon)
            assert refused.returncode == 75
            assert b"no guest's driver is running" in refused.stderr
            async with UmlGuest.boot([tmp_path / "vm0.sock"]) as guest:
                await guest.load("virtio_net")
                await guest.check(f"ip addr add {ADDRESS}/24 dev eth0 && ip link set eth0 up")
                assert (await daemon.status())["state"]["announce"] is False
                mark = len(daemon.events)
                asked = await cvqd_announce(daemon)
                assert (asked.returncode, asked.stdout, asked.stderr) == (0, b"", b"")
                with trio.fail_after(10):
                    while not gratuitous(frame := await network.recv(2048)):
                        pass
                assert frame[6:12] == bytes.fromhex(OWN.replace(":", ""))
                await daemon.event("announce.raised", after=mark)
                acked = await daemon.event("cvq.command.acked", after=mark, command="announce.ack")
                assert acked["ack"] == 0
                assert (await daemon.status())["state"]["announce"] is False


async def test_the_guests_carrier_follows_the_link(tmp_path: Path) -> None:
    async with (
        Rig.opened(tmp_path, SimulatorSpec(max_queue_pairs=2)) as rig,
        UmlGuest.boot([tmp_path / "vm0.sock"]) as guest,
    ):
        await guest.load("virtio_net")
        await guest.check("ip link set eth0 up")
        for up in (True, False, True):
            rig.device.set_link(up=up)
            carrier = "$(cat /sys/class/net/eth0/carrier)"
            await guest.check(f"while [ {carrier} != {int(up)} ]; do /bin/busybox usleep 1000; done")
