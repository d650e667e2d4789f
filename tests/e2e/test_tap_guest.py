from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.uml import UmlGuest
from kit.own_network import ADDRESS, TAP, own_network

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.guest, pytest.mark.tap]

NEW = "52:54:00:c0:ff:ee"


async def test_a_guest_pings_the_host_over_a_tap_interface(tmp_path: Path) -> None:
    with own_network():
        content = simulator_config(tmp_path, datapath={"kind": "tap", "interface": TAP})
        async with (
            DaemonProcess.start(tmp_path, content) as daemon,
            UmlGuest.boot([tmp_path / "vm0.sock"]) as guest,
        ):
            await guest.load("virtio_net")
            await guest.check("ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up")
            ping = f"/bin/busybox ping -c 3 -i 0.1 -W 5 {ADDRESS}"
            assert "3 packets received" in await guest.check(ping)

            # the host learns the new address from the guest's next question
            await guest.check(f"ip link set eth0 address {NEW} && ip neigh flush dev eth0")
            assert (await daemon.status())["state"]["mac"] == NEW
            assert "3 packets received" in await guest.check(ping)
            await guest.check("ethtool -L eth0 combined 4")
            assert "3 packets received" in await guest.check(ping)
