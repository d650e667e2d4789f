"""A Linux guest under the site's policy: what it is refused, what it still does, what a reload gives back."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.uml import UmlGuest
from kit.uml_link import NEW, OWN, frames

pytestmark = pytest.mark.guest


async def reload(daemon: DaemonProcess, content: dict[str, Any]) -> None:
    mark = len(daemon.events)
    daemon.config.write_text(yaml.safe_dump(content))
    os.kill(daemon.pid, signal.SIGHUP)
    await daemon.event("service.reloaded", after=mark)


async def refused(daemon: DaemonProcess) -> list[tuple[str, str]]:
    await daemon.told()
    return [(event["command"], event["reason"]) for event in daemon.named("cvq.command.refused")]


async def test_a_guest_is_refused_what_the_site_forbids_until_a_reload_allows_it(tmp_path: Path) -> None:
    policy: dict[str, Any] = {
        "mac": {"change": "refused"},
        "promiscuous": "refused",
        "vlans": ["5", "100-199"],
        "mac_table": {"unicast": 0},
        "pairs": 2,
    }
    content = simulator_config(tmp_path) | {"policy": policy}
    async with (
        DaemonProcess.start(tmp_path, content) as daemon,
        UmlGuest.boot([Path(daemon.socket)]) as guest,
    ):
        await guest.load("virtio_net", "8021q", "macvlan")
        await guest.check("ip link set eth0 up")
        assert await frames(guest, OWN, NEW) == {OWN: "back", NEW: "lost"}
        assert await refused(daemon) == [], "a guest that asks for nothing special notices nothing"

        denied = await guest.run(f"ip link set eth0 address {NEW}")
        assert denied.status != 0
        assert "Invalid argument" in denied.text
        assert await refused(daemon) == [("mac.addr_set", "site.mac")]
        assert await guest.check("cat /sys/class/net/eth0/address") == OWN

        # Linux takes no answer to these for a failure; the device does not follow
        await guest.check("ip link set eth0 promisc on")
        assert await frames(guest, NEW) == {NEW: "lost"}
        await guest.check("ip link set eth0 promisc off")
        assert ("rx.promisc", "site.promiscuous") in await refused(daemon)
        await guest.check(f"ip link add link eth0 name mac1 address {NEW} type macvlan")
        await guest.check("ip link set mac1 up")
        assert await frames(guest, NEW) == {NEW: "lost"}
        await guest.check("ip link delete mac1")
        assert ("mac.table_set", "site.mac_table") in await refused(daemon)

        await guest.check("ip link add link eth0 name eth0.150 type vlan id 150")
        await guest.run("ip link add link eth0 name eth0.6 type vlan id 6")
        assert ("vlan.add", "site.vlan") in await refused(daemon)
        assert await frames(guest, f"{OWN},vlan=150", f"{OWN},vlan=6") == {
            f"{OWN},vlan=150": "back",
            f"{OWN},vlan=6": "lost",
        }

        assert "Combined:\t2" in await guest.check("ethtool -l eth0 | head -n 6"), "what it is shown"
        await guest.check("ethtool -L eth0 combined 2")
        assert (await daemon.status())["state"]["pairs"] == 2

        await reload(daemon, content | {"policy": {"promiscuous": "refused", "pairs": 1}})
        await guest.check(f"ip link set eth0 address {NEW}")
        assert (await daemon.status())["state"]["mac"] == NEW
        assert await frames(guest, NEW, OWN) == {NEW: "back", OWN: "lost"}
        await guest.check("ethtool -L eth0 combined 1")
        assert (await guest.run("ethtool -L eth0 combined 2")).status != 0
        command, rule = (await refused(daemon))[-1]
        assert rule == "site.pairs"
        assert command in {"mq.vq_pairs_set", "mq.rss_config"}, "by RSS since Linux 6.12"
