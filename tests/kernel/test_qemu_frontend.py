"""QEMU's ``-netdev vhost-user``: a front-end that keeps its guest's control queue to itself.

The virtual machine is the guest here, with a network card whose back-end is
cvqd on its simulator.  The other end of the cable is this test, which sends
every frame back.
"""

from __future__ import annotations

import json
import socket
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from cvqd.simulator.peer import steer
from cvqd.testing.daemon import DaemonProcess, simulator_config
from kernel.kernel_image import HERE, kernel_image
from kernel.virtual_machine import VirtualMachine, boot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]

FRAMES = HERE / "frames_back.py"
MEMORY = 768
#: QEMU's own idea of the card's address, which the device never hears of
OWN = bytes.fromhex("5254000a0b0c")
#: frames to others, to itself, to a group, with a VLAN: no filter arrives, so all have to come back
HEADERS = [
    *(bytes.fromhex(f"5254007700{last:02x}") + OWN for last in range(16)),
    OWN + OWN,
    bytes.fromhex("01005e7f0001") + OWN,
    OWN + OWN + bytes.fromhex("81000005"),
]
PAIRS = 4


def card(socket_path: Path) -> list[str]:
    return [
        *("-object", f"memory-backend-memfd,id=ram,size={MEMORY}M,share=on", "-numa", "node,memdev=ram"),
        *("-chardev", f"socket,id=cvqd,path={socket_path}"),
        *("-netdev", "vhost-user,id=net,chardev=cvqd,queues=4"),
        # no MSI-X: QEMU 7.2 without KVM dies of it in front of vhost-user (kvm_virtio_pci_vector_use)
        *("-device", f"virtio-net-pci,netdev=net,mq=on,vectors=0,romfile=,mac={OWN.hex(':')}"),
    ]


class Machine:
    """The guest, without blocking the test's other tasks."""

    def __init__(self, machine: VirtualMachine) -> None:
        self._machine = machine

    async def sh(self, script: str) -> str:
        run = partial(self._machine.run, ["sh", "-ec", script], timeout=60)
        result = await trio.to_thread.run_sync(run)
        assert result.code == 0, (script, result, self._machine.console())
        return result.stdout

    async def missing(self, *frames: tuple[int, bytes]) -> str:
        """Which of these frames, each with its transmit queue, do not come back."""
        wanted = " ".join(f"{queue}:{header.hex()}" for queue, header in frames)
        return await self.sh(f"{sys.executable} -I -S {FRAMES} eth0 {wanted}")


@asynccontextmanager
async def echo(ours: Path, theirs: Path) -> AsyncIterator[None]:
    """The other end of the device's cable, which sends every frame back."""
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as network:
        await network.bind(str(ours))

        async def send_back() -> None:
            while True:
                frame = await network.recv(1 << 16)
                await network.sendto(frame, str(theirs))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_back)
            yield
            nursery.cancel_scope.cancel()


async def status(daemon: DaemonProcess) -> dict[str, Any]:
    """What ``cvqd status --json`` shows."""
    command = [sys.executable, "-m", "cvqd", "status", "--config", str(daemon.config), "--json"]
    shown = await trio.run_process(command, capture_stdout=True)
    return json.loads(shown.stdout)


async def test_a_guest_of_qemus_own_network_device_has_its_pairs_and_all_its_frames(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "network", tmp_path / "device"
    # rings of Debian 13's QEMU 10 have 1024 descriptors, whatever rx_queue_size says
    cable = {"kind": "peer", "bind": str(theirs), "connect": str(ours)}
    content = simulator_config(tmp_path, queue_size=1024, datapath=cable)
    image = await trio.to_thread.run_sync(kernel_image)
    async with DaemonProcess.start(tmp_path, content) as daemon, echo(ours, theirs):
        start = partial(boot, extra=card(Path(daemon.socket)), memory_mib=MEMORY)
        with await trio.to_thread.run_sync(start) as running:
            guest = Machine(running)
            await guest.sh("\n".join(f"/bin/busybox insmod {module}" for module in image.guest_modules))
            await guest.sh("ip link set eth0 up")

            # as many as the guest has processors, which is Linux's own choice
            begun = await status(daemon)
            assert begun["phase"] == "running"
            assert begun["state"]["pairs"] == 2
            assert begun["state"]["rx"]["promisc"] is True
            assert "CTRL_VQ" not in begun["frontend"]["features"]
            assert begun["isolation"]["verdict"] == "isolated"
            assert (await daemon.event("cvq.driven"))["promiscuous"] is True
            assert "Combined:\t4" in await guest.sh("ethtool -l eth0 | head -n 6")

            for pairs in (4, 3, 1, 4):
                await guest.sh(f"ethtool -L eth0 combined {pairs}")
                assert (await status(daemon))["state"]["pairs"] == pairs
            changes = [event["command"] for event in daemon.named("state.changed")]
            assert set(changes) == {"mq.vq_pairs_set"}

            await guest.sh(
                "tc qdisc replace dev eth0 root mqprio num_tc 4 map 0 1 2 3 0 0 0 0 0 0 0 0 0 0 0 0"
                " queues 1@0 1@1 1@2 1@3 hw 0"
            )
            frames = [(place % PAIRS, header) for place, header in enumerate(HEADERS)]
            assert {steer(header, PAIRS) for header in HEADERS} == set(range(PAIRS)), "every receive queue"
            assert not await guest.missing(*frames)
            kicks = await guest.sh("ethtool -S eth0 | grep -E 'tx[0-3]_kicks'")
            assert all(int(line.rpartition(":")[2]) for line in kicks.splitlines()), kicks
            assert len(kicks.splitlines()) == PAIRS

            mark = len(daemon.events)
            await guest.sh(f"/bin/busybox rmmod virtio_net && /bin/busybox insmod {image.guest_modules[-1]}")
            await guest.sh("ip link set eth0 up")
            await daemon.event("device.stopped", after=mark)
            await daemon.event("device.started", after=mark)
            assert not await guest.missing((0, OWN + OWN))
        await daemon.event("frontend.disconnected")
        assert not [event for event in daemon.events if event["level"] == "error"]
        assert await daemon.stop() == 0
