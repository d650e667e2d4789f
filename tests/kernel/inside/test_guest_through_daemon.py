"""The whole path on the kernel's device: a Linux guest, the daemon, vhost-vdpa."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from cvqd.testing.daemon import DaemonProcess
from cvqd.testing.uml import UmlGuest

# a guest in emulation in emulation
pytestmark = [pytest.mark.guest, pytest.mark.timeout(180)]

OWN = "52:54:11:22:33:44"
NEW = "52:54:11:c1:ff:ee"


def config(directory, name="vm0", vdpa="vdpa0", **more):
    return {
        "device": {"kind": "vhost-vdpa", "vdpa": vdpa, "mac": OWN},
        "frontend": {"socket": str(directory / f"{name}.sock")},
        "control": {"socket": str(directory / f"{name}.control")},
        "state": {"directory": str(directory / f"{name}.state")},
        "log": {"level": "debug", "format": "json"},
        **more,
    }


async def received(guest, destination):
    """How many frames came in while one went out to this address.

    busybox sends it: Python would take its time to start in a guest that is emulated twice.
    """
    counted = "/sys/class/net/eth0/statistics/rx_packets"
    said = await guest.check(
        "ip addr replace 192.0.2.1/24 dev eth0 && "
        f"ip neigh replace 192.0.2.2 lladdr {destination} nud permanent dev eth0 && "
        f"cat {counted} && {{ /bin/busybox ping -c 1 -W 1 192.0.2.2; cat {counted}; }}",
        deadline=60,
    )
    lines = said.split()
    return int(lines[-1]) - int(lines[0])


def device_config(vdpa):
    """What the kernel says of the device to everybody, outside of the daemon."""
    shown = subprocess.run(
        ["vdpa", "-j", "dev", "config", "show", vdpa], check=True, capture_output=True, text=True
    )
    return json.loads(shown.stdout)["config"][vdpa]


@pytest.fixture
async def three(tmp_path):
    """Three daemons on three devices and one guest with a card on each.

    The second and third have four pairs; the third's site allows the guest one, so that its control
    queue is where a guest that declines MQ has it.
    """
    first = config(tmp_path, targets={"spare": {"kind": "vhost-vdpa", "vdpa": "vdpa1"}})
    second = config(tmp_path, "vm1", "vdpa2")
    third = config(tmp_path, "vm2", "vdpa4", policy={"pairs": 1})
    async with (
        DaemonProcess.start(tmp_path, first, deadline=60) as one,
        DaemonProcess.start(tmp_path, second, name="vm1", deadline=60) as other,
        DaemonProcess.start(tmp_path, third, name="vm2", deadline=60) as single,
        UmlGuest.boot([Path(each.socket) for each in (one, other, single)], deadline=90) as guest,
    ):
        await guest.load("virtio_net", deadline=60)
        yield one, other, single, guest


async def groups_and_spaces(daemon):
    isolation = (await daemon.status())["isolation"]
    assert isolation["verdict"] == "isolated"
    return [(queue["group"], queue["asid"]) for queue in isolation["queues"]]


async def test_a_guest_with_a_card_on_each_of_three_kernel_devices(three):
    one, other, single, guest = three
    assert await guest.check("cat /sys/class/net/eth?/address") == f"{OWN}\n{OWN}\n{OWN}"
    await guest.check("ip link set eth0 up && ip link set eth1 up && ip link set eth2 up", deadline=40)
    assert await groups_and_spaces(one) == [(0, 0), (0, 0), (1, 1)]
    assert await groups_and_spaces(other) == [(0, 0)] * 8 + [(1, 1)]

    # an address goes through the daemon to the device, and to that device only
    await guest.check(f"ip link set eth0 address {NEW}", deadline=40)
    assert device_config("vdpa0")["mac"] == NEW
    assert device_config("vdpa2")["mac"] == OWN
    assert (await one.status())["state"]["mac"] == NEW
    assert (await one.event("cvq.command.acked", command="mac.addr_set"))["ack"] == 0
    # the device's loopback lets a frame to the new address back in, and no other
    assert await received(guest, NEW) == 1
    assert await received(guest, "52:54:11:99:99:99") == 0

    # to another device of the kernel's and back, twice: its address goes along, and so do its frames
    moved = await one.request("rehearse", deadline=60, to="spare", back=True, times=2)
    assert moved["verdict"] == "passed", moved
    assert len(moved["moves"]) == 4
    assert {(move["digest_before"], move["digest_after"]) for move in moved["moves"]} == {
        ((await one.status())["state"]["digest"],) * 2
    }
    there = await one.request("rehearse", deadline=60, to="spare")
    assert (there["verdict"], there["guest_on"]) == ("passed", "spare")
    assert device_config("vdpa1")["mac"] == NEW
    assert await received(guest, NEW) == 1
    back = await one.request("rehearse", deadline=60, to="device")
    assert (back["verdict"], back["guest_on"]) == ("passed", "device")
    assert await received(guest, NEW) == 1

    # channels, on the device that has them
    await guest.check("ethtool -L eth1 combined 3", deadline=40)
    assert (await other.status())["state"]["pairs"] == 3
    assert (await guest.run("ethtool -L eth1 combined 5", deadline=40)).status != 0
    assert (await other.status())["state"]["pairs"] == 3
    acked = [event["ack"] for event in other.named("cvq.command.acked")]
    assert acked
    assert set(acked) == {0}

    # the device's control queue stays at 8 and isolated while this guest's is at 2
    assert (await single.event("device.started"))["rings"] == [0, 1, 2]
    assert await groups_and_spaces(single) == [(0, 0)] * 8 + [(1, 1)]
    await guest.check(f"ip link set eth2 address {NEW}", deadline=40)
    assert device_config("vdpa4")["mac"] == NEW
    assert (await single.event("cvq.command.acked", command="mac.addr_set"))["ack"] == 0

    # a new driver begins anew, and its commands find the way again
    await guest.unload("virtio_net")
    await guest.load("virtio_net", deadline=60)
    assert await guest.check("cat /sys/class/net/eth0/address", deadline=40) == OWN
    await guest.check("ip link set eth0 up && ip link set eth1 up", deadline=40)
    assert device_config("vdpa0")["mac"] == OWN
    await guest.check("ethtool -L eth1 combined 4", deadline=40)
    assert (await other.status())["state"]["pairs"] == 4
    assert await groups_and_spaces(one) == [(0, 0), (0, 0), (1, 1)]
    assert await one.stop(deadline=20) == 0
    assert await other.stop(deadline=20) == 0
    assert await single.stop(deadline=20) == 0
