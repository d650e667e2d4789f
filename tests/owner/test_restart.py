"""A daemon that comes back: to a guest that goes on, and to one whose driver starts over.

Two instances, one after the other, share a directory and nothing else.
``test_kill`` kills real ones.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cvqd.owner.state_log import StateLog
from cvqd.simulator.spec import DEFAULT_MAC, SimulatorSpec
from cvqd.testing.driver import GuestMemory
from cvqd.testing.events import EventRecorder
from cvqd.testing.sequences import ORDERS
from cvqd.wire.net_control import AnnounceAck, MacAddrSet, RxMode, RxModeSet, VlanAdd, VqPairsSet
from cvqd.wire.virtio import Feature
from kit.rig import BROADCAST, KEEPERS, MAC_A, MAC_B, Guest, Rig, frame, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CONTROLLED = sorted(set(ORDERS) - KEEPERS)
CHANGES = (MacAddrSet(MAC_A), VqPairsSet(2), RxModeSet(RxMode.PROMISC, 0), VlanAdd(5), VlanAdd(4095))


@asynccontextmanager
async def daemon(directory: Path) -> AsyncIterator[Rig]:
    """One life of the daemon's process."""
    log = EventRecorder()
    kept = StateLog.open(
        str(directory / "state"), log, device="simulator", devices={"simulator"}, max_command=64 << 10
    )
    with closing(kept):
        async with Rig.opened(directory, SimulatorSpec(max_queue_pairs=2), log=log, kept=kept) as rig:
            yield rig


@asynccontextmanager
async def a_guest(rig: Rig, order: str, features: int | None = None) -> AsyncIterator[Guest]:
    """A running one that outlives ``rig``; its first connection ends with the block of ``rig``."""
    front_end = await rig.connect()
    with Guest(rig, front_end, order, memory=GuestMemory(), features=features) as guest:
        await front_end.play(guest.order.connect(guest.setup))
        await guest.start()
        try:
            yield guest
        finally:
            front_end.close()


async def change_everything(guest: Guest) -> None:
    for command in CHANGES:
        assert await guest.command(command.encode()) == 0


@asynccontextmanager
async def restarted(
    directory: Path, order: str, *, driver_restarts: bool = False
) -> AsyncIterator[tuple[Guest, Rig, str]]:
    """A guest that has changed everything, a second daemon, the digest of the first."""
    async with AsyncExitStack() as outliving:
        async with daemon(directory) as first:
            guest = await outliving.enter_async_context(a_guest(first, order))
            await change_everything(guest)
            digest = first.owner.state.digest()
        if driver_restarts:
            guest.driver.restart()
        async with daemon(directory) as second:
            assert second.log.of("state.loaded")[0]["digest"] == digest
            yield guest, second, digest


@pytest.mark.parametrize("order", CONTROLLED)
async def test_a_guest_that_goes_on_finds_its_device_as_it_left_it(tmp_path: Path, order: str) -> None:
    async with restarted(tmp_path, order) as (guest, rig, digest):
        assert rig.status["state"]["digest"] == digest, "before anybody connects"
        async with guest.behind(rig) as back:
            # a driver that is about to begin would read the device's own
            assert await back.front_end.get_config(0, 6) == DEFAULT_MAC
            await back.start()
            assert not rig.log.of("state.reset")
            assert rig.log.of("state.replayed")[0]["digest"] == digest
            assert rig.device.net.control.state.mac == MAC_A
            assert rig.device.net.control.state.pairs == 2
            assert rig.owner.state.vlan_ids() == [5, 4095]
            assert await back.front_end.get_config(0, 6) == MAC_A
            await back.set_mac(MAC_B)


@pytest.mark.parametrize("order", CONTROLLED)
async def test_a_driver_that_starts_over_finds_a_device_that_does(tmp_path: Path, order: str) -> None:
    async with restarted(tmp_path, order, driver_restarts=True) as (guest, rig, digest):
        async with guest.behind(rig) as back:
            await back.start()
            assert rig.log.of("state.reset")[0]["reason"] == "every ring is initial"
            assert rig.owner.state.digest() != digest
            assert rig.owner.state.mac == rig.device.net.control.state.mac == DEFAULT_MAC
            assert await back.front_end.get_config(0, 6) == DEFAULT_MAC
            await back.set_mac(MAC_B)
        # and that is what is kept from now on
        async with guest.behind(rig) as back:
            await back.start()
            assert rig.owner.state.mac == MAC_B


async def test_qemus_network_device_goes_on_with_its_pairs(tmp_path: Path) -> None:
    async with AsyncExitStack() as outliving:
        async with daemon(tmp_path) as first:
            guest = await outliving.enter_async_context(a_guest(first, "qemu-net"))
            guest.driver.fill()
            assert await guest.echo(frame(BROADCAST))
            digest = first.owner.state.digest()
        async with daemon(tmp_path) as rig, guest.behind(rig) as back:
            await back.start()
            assert not rig.log.of("state.reset")
            assert rig.owner.state.digest() == digest


async def test_a_command_that_nobody_answered_is_fetched_again(tmp_path: Path) -> None:
    async with restarted(tmp_path, "crosvm") as (guest, rig, _):
        # the kick went to the process that is gone
        head = guest.driver.post_command(MacAddrSet(MAC_B).encode())
        async with guest.behind(rig) as back:
            await back.start()
            used = await back.control.wait()
            assert (used.head, back.driver.take_ack(head)) == (head, 0)
            assert rig.owner.state.mac == MAC_B


@pytest.mark.parametrize("said", [0, 2, 4])
async def test_the_used_index_decides_where_the_control_queue_goes_on(tmp_path: Path, said: int) -> None:
    """A front-end may remember the base of its last GET_VRING_BASE, or none; both are from before."""
    async with restarted(tmp_path, "crosvm") as (guest, rig, _), guest.behind(rig) as back:
        setup = back.setup
        rings = (*setup.rings[:4], replace(setup.rings[4], base=said))
        await back.front_end.play(back.order.start(setup._replace(rings=rings)))
        await back.front_end.get_features()
        await settled()
        assert rig.log.of("cvq.resumed") == [{"base": 5, "said": said}]
        await back.set_mac(MAC_B)
        assert not rig.log.of("cvq.broken")
        assert rig.journal.answers["mac.addr_set", "ok"] == 1, "none was fetched a second time"


async def test_a_driver_with_other_features_is_another_driver(tmp_path: Path) -> None:
    async with restarted(tmp_path, "crosvm") as (guest, rig, _):
        guest.features &= ~Feature.CTRL_VLAN.mask
        async with guest.behind(rig) as back:
            await back.start()
            assert "other features" in str(rig.log.of("state.reset")[0]["reason"])
            assert rig.owner.state.vlan_ids() == []


async def test_a_reset_just_before_the_end_is_remembered(tmp_path: Path) -> None:
    """The rings may still look used: a driver that was told to reset has not touched them yet."""
    async with AsyncExitStack() as outliving:
        async with daemon(tmp_path) as first:
            guest = await outliving.enter_async_context(a_guest(first, "qemu"))
            await change_everything(guest)
            await guest.front_end.reset_device()
        async with daemon(tmp_path) as rig, guest.behind(rig) as back:
            assert not rig.log.of("state.loaded")
            await back.start()
            assert rig.owner.state.mac == DEFAULT_MAC


async def test_an_announcement_that_was_asked_for_is_owed_still(tmp_path: Path) -> None:
    async with AsyncExitStack() as outliving:
        async with daemon(tmp_path) as first:
            guest = await outliving.enter_async_context(a_guest(first, "qemu"))
            await change_everything(guest)
            first.owner.announce()
        async with daemon(tmp_path) as rig, guest.behind(rig) as back:
            await back.start()
            assert rig.owner.state.announce
            assert await back.command(AnnounceAck().encode()) == 0


async def test_rings_in_use_without_a_state_are_worth_a_warning(tmp_path: Path) -> None:
    async with (
        restarted(tmp_path / "there", "crosvm") as (guest, _, _),
        daemon(tmp_path / "elsewhere") as rig,
        guest.behind(rig) as back,
    ):
        await back.start()
        assert len(rig.log.of("state.unknown")) == 1
        assert rig.owner.state.mac == DEFAULT_MAC
