"""A guest that pings another one is moved from one simulator to another and back, again and again."""

from __future__ import annotations

import os
import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.uml import UmlGuest
from kit.uml_link import NEW, join

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: rounds, there and back; CVQD_ROUNDS=100 takes minutes
ROUNDS = int(os.environ.get("CVQD_ROUNDS", "5"))

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120 + 5 * ROUNDS)]

HERE, THERE = "52:54:00:12:34:56", "52:54:00:12:34:66"


@asynccontextmanager
async def cabled(directory: Path) -> AsyncIterator[tuple[DaemonProcess, UmlGuest, UmlGuest]]:
    """Two guests, each on a daemon of its own, on two ends of a cable; the first has somewhere to go."""
    left, right = str(directory / "left"), str(directory / "right")
    end = {"kind": "peer", "bind": left, "connect": right}
    here = simulator_config(directory, sockets="vm0", mac=HERE, datapath=end)
    here["targets"] = {"spare": here["device"] | {"mac": "52:54:00:12:34:57"}}
    here["log"]["level"] = "info"
    other = {"kind": "peer", "bind": right, "connect": left}
    there = simulator_config(directory, sockets="vm1", mac=THERE, datapath=other)
    async with (
        DaemonProcess.start(directory, here, name="vm0") as one,
        DaemonProcess.start(directory, there, name="vm1") as two,
        UmlGuest.boot([Path(one.socket)]) as guest,
        UmlGuest.boot([Path(two.socket)]) as peer,
    ):
        for each, address in ((guest, "192.0.2.1"), (peer, "192.0.2.2")):
            await each.load("virtio_net")
            await each.check(f"ip addr add {address}/24 dev eth0 && ip link set eth0 up")
        yield one, guest, peer


def used(pid: int) -> tuple[int, int]:
    """Descriptors and KiB of memory that a process has to itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    (own,) = re.findall(r"RssAnon:\s+(\d+) kB", status)
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), int(own)


async def test_a_guest_is_moved_back_and_forth_while_it_pings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with cabled(tmp_path) as (daemon, guest, _):
        await guest.load("8021q")
        await guest.check(f"ip link set eth0 address {NEW} && ethtool -L eth0 combined 4")
        await guest.check(
            "for i in $(seq 1 100); do echo link add link eth0 name v$i type vlan id $i; done | ip -batch -",
            deadline=30,
        )
        await join(guest, 50)
        await guest.check("/bin/busybox ping -c 1 -W 5 192.0.2.2", deadline=10)
        before = (await daemon.status())["state"]
        assert (before["mac"], before["pairs"]) == (NEW, 4)
        assert set(range(1, 101)) <= set(before["vlans"])
        assert len(before["mac_table"]["multicast"]) >= 50
        # what the first moves make stays: it is not what grows
        await rehearse(daemon, max(1, ROUNDS // 5))
        start = used(daemon.pid)

        await guest.check("/bin/busybox ping -i 0.05 192.0.2.2 >/tmp/pings 2>&1 & echo $! >/tmp/pinging")
        answers: list[dict[str, Any]] = []
        async with trio.open_nursery() as nursery:

            async def go() -> None:
                answers.append(await rehearse(daemon, ROUNDS))

            nursery.start_soon(go)
            # and it is not idle meanwhile
            for vid in range(101, 101 + 4 * ROUNDS):
                await guest.check(f"ip link add link eth0 name v{vid} type vlan id {vid}")
        (answer,) = answers
        pings = await guest.check(
            "kill -INT $(cat /tmp/pinging); while kill -0 $(cat /tmp/pinging) 2>/dev/null; do :; done;"
            " cat /tmp/pings"
        )
        end = used(daemon.pid)

        assert answer["verdict"] == "passed", answer
        assert answer["guest_on"] == "device"
        moves = answer["moves"]
        assert len(moves) == 2 * ROUNDS
        assert all(move["digest_before"] == move["digest_after"] for move in moves)
        after = (await daemon.status())["state"]
        wanted = before["vlans"] + list(range(101, 101 + 4 * ROUNDS))
        changed = {"digest", "vlans"}
        assert {key: after[key] for key in after if key not in changed} == {
            key: before[key] for key in before if key not in changed
        }
        assert sorted(after["vlans"]) == sorted(wanted)
        await daemon.told()
        assert {event["ack"] for event in daemon.named("cvq.command.acked")} == {0}
        assert not daemon.named("cvq.command.expired")

        sent, received = map(int, re.findall(r"(\d+) packets transmitted, (\d+) packets received", pings)[0])
        blackouts = sorted(move["blackout_us"] / 1000 for move in moves)
        lines = [
            f"{len(moves)} moves: {sent} pings sent, {sent - received} lost",
            f"blackout in ms: median {blackouts[len(blackouts) // 2]:.1f}, longest {blackouts[-1]:.1f}",
            f"descriptors {start[0]} -> {end[0]}, memory {start[1]} -> {end[1]} KiB",
        ]
        with capsys.disabled():
            print("", *lines, sep="\n")  # noqa: T201 -- figures for whoever asked for them
        # frames that arrive meanwhile wait in the cable's end and those that leave in their ring
        assert sent - received <= 1, "the one under way when ping was told to end"
        assert sent > ROUNDS
        assert end[0] <= start[0]
        # what is kept of each move until the answer is given, and of each command
        assert end[1] < start[1] + 1024 + 8 * ROUNDS


async def rehearse(daemon: DaemonProcess, rounds: int) -> dict[str, Any]:
    return await daemon.request("rehearse", to="spare", back=True, times=rounds, deadline=30 + 5 * rounds)
