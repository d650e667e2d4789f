"""virtio_uml that dropped a feature acknowledges no bit 30, and disables no ring before it frees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.wire.net_control import MacAddrSet
from cvqd.wire.vhost_user import FrontRequest
from cvqd.wire.vhost_user_payloads import encode_u64
from kit.rig import Guest, Rig, settled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cvqd.testing.steps import GuestSetup, Step

MAC = bytes.fromhex("525400000bad")


def start_without_enable(guest: Guest) -> Iterator[Step]:
    setup: GuestSetup = guest.setup
    for step in guest.order.start(setup):
        if step.request == FrontRequest.SET_FEATURES:
            yield step._replace(payload=encode_u64(setup.features))
        elif step.request != FrontRequest.SET_VRING_ENABLE:
            yield step


async def test_the_barrier_stops_the_device_and_a_new_set_up_starts_it(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path) as rig, rig.guest("uml") as guest:
        await guest.front_end.play(start_without_enable(guest))
        assert rig.owner.running
        assert await guest.command(MacAddrSet(MAC).encode()) == 0
        await guest.front_end.get_features()
        assert not rig.owner.running
        await guest.front_end.get_features()
        assert not rig.owner.running, "nothing that was left is taken up again"
        assert await guest.front_end.get_config(0, 6) != MAC
        with Guest(rig, guest.front_end, "uml") as reloaded:
            await guest.front_end.play(start_without_enable(reloaded))
            assert rig.owner.running
            assert rig.owner.state.mac != MAC
            assert await reloaded.command(MacAddrSet(MAC).encode()) == 0


async def test_a_kick_says_that_it_was_a_mere_barrier(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path) as rig, rig.guest("uml") as guest:
        await guest.front_end.play(start_without_enable(guest))
        assert await guest.command(MacAddrSet(MAC).encode()) == 0
        await guest.front_end.get_features()
        assert not rig.owner.running
        assert await guest.command(MacAddrSet(MAC).encode()) == 0
        await settled()
        assert rig.owner.running
        assert rig.owner.state.mac == MAC
