"""The control commands that a stock Linux guest sends by ``ethtool``, ``ip`` and sheer number."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from kit.uml_link import NEW, OWN, acks, carried, frames, join, linked, state

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.guest


async def test_ethtool_sets_the_indirection_table_and_the_hash_key(tmp_path: Path) -> None:
    async with linked(tmp_path, max_queue_pairs=4) as (daemon, guest):
        await guest.check("ip link set eth0 up && ethtool -L eth0 combined 4")
        await guest.check("ethtool -X eth0 weight 1 0 0 3")
        steering = (await state(daemon))["steering"]
        assert steering["mode"] == "rss"
        assert len(steering["table"]) == 128
        assert {pair: steering["table"].count(pair) for pair in range(4)} == {0: 32, 1: 0, 2: 0, 3: 96}
        assert set(steering["hash_types"]) >= {"ipv4", "tcpv4", "udpv4", "ipv6"}
        shown = await guest.check("ethtool -x eth0")
        assert "toeplitz: on" in shown
        before = (await state(daemon))["digest"]
        key = ":".join(f"{byte:02x}" for byte in range(40))
        await guest.check(f"ethtool -X eth0 hkey {key}")
        assert (await state(daemon))["digest"] != before
        assert key in await guest.check("ethtool -x eth0")
        await guest.check("ethtool -X eth0 default")
        table = (await state(daemon))["steering"]["table"]
        assert {pair: table.count(pair) for pair in range(4)} == dict.fromkeys(range(4), 32)
        assert not [ack for ack in await acks(daemon, "mq.rss_config") if ack != 0]
        assert await frames(guest, OWN, NEW) == {OWN: "back", NEW: "lost"}


async def test_ethtool_chooses_the_hashed_fields(tmp_path: Path) -> None:
    async with linked(tmp_path, max_queue_pairs=2) as (daemon, guest):
        await guest.check("ip link set eth0 up && ethtool -L eth0 combined 2")
        await guest.check("ethtool -K eth0 rxhash on")
        await guest.check("ethtool -N eth0 rx-flow-hash tcp4 sd")
        assert "tcpv4" not in (await state(daemon))["steering"]["hash_types"]
        await guest.check("ethtool -N eth0 rx-flow-hash tcp4 sdfn")
        assert "tcpv4" in (await state(daemon))["steering"]["hash_types"]


async def test_ethtool_switches_receive_offloads(tmp_path: Path) -> None:
    async with linked(tmp_path) as (daemon, guest):
        await guest.check("ip link set eth0 up")
        assert set((await state(daemon))["offloads"]) == {"GUEST_CSUM", "GUEST_TSO4", "GUEST_TSO6"}
        await guest.check("ethtool -K eth0 rx-gro-hw off")
        assert (await state(daemon))["offloads"] == ["GUEST_CSUM"]
        assert "rx-gro-hw: off" in await guest.check("ethtool -k eth0")
        await guest.check("ethtool -K eth0 rx-gro-hw on")
        assert set((await state(daemon))["offloads"]) == {"GUEST_CSUM", "GUEST_TSO4", "GUEST_TSO6"}
        assert await frames(guest, OWN, NEW) == {OWN: "back", NEW: "lost"}


async def test_ethtool_sets_coalescing_for_both_directions(tmp_path: Path) -> None:
    async with linked(tmp_path) as (daemon, guest):
        await guest.check("ip link set eth0 up")
        await guest.check("ethtool -C eth0 rx-usecs 200 rx-frames 8 tx-usecs 100 tx-frames 16")
        coalescing = (await state(daemon))["coalescing"]
        assert coalescing["rx"] == {"packets": 8, "usecs": 200}
        assert coalescing["tx"] == {"packets": 16, "usecs": 100}
        shown = (await guest.check("ethtool -c eth0")).split()
        assert shown[shown.index("rx-usecs:") + 1] == "200"
        assert await frames(guest, OWN, OWN) == {OWN: "back"}
        await guest.check("ethtool -C eth0 rx-usecs 0 rx-frames 0")
        assert (await state(daemon))["coalescing"]["rx"] == {"packets": 0, "usecs": 0}


async def test_what_the_guests_driver_counts_agrees_with_the_traffic(tmp_path: Path) -> None:
    async with linked(tmp_path) as (_, guest):
        await guest.check("ip link set eth0 up")
        assert await frames(guest, OWN) == {OWN: "back"}
        assert (await carried(guest, "rx"))[0] >= 1
        assert (await carried(guest, "tx"))[0] >= 1


@pytest.mark.timeout(180)
async def test_a_guest_with_every_vlan_and_500_groups_is_served_in_seconds(tmp_path: Path) -> None:
    async with linked(tmp_path, memory_mib=512) as (daemon, guest):
        await guest.load("8021q")
        await guest.check("ip link set eth0 up")
        begun = time.monotonic()
        await join(guest, 500)
        groups = time.monotonic() - begun
        begun = time.monotonic()
        await guest.check(
            "for i in $(seq 1 4094); do echo link add link eth0 name v$i type vlan id $i; done | ip -batch -",
            deadline=120,
        )
        vlans = time.monotonic() - begun
        now = await state(daemon)
        assert set(now["vlans"]) >= set(range(1, 4095))
        wanted = {f"01:00:5e:01:{i // 256:02x}:{i % 256:02x}" for i in range(500)}
        assert wanted <= set(now["mac_table"]["multicast"])
        group, tagged = "01:00:5e:01:01:f3", f"{OWN},vlan=4094"
        assert await frames(guest, group, tagged) == {group: "back", tagged: "back"}
        assert groups < 30
        assert vlans < 60
        assert not daemon.stray
