"""A front-end that keeps its guest's control queue: cvqd drives the device's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cvqd.core.site_policy import SitePolicy
from cvqd.owner.own_commands import opening, pairs_of
from cvqd.simulator.spec import Fault, FaultAction, SimulatorSpec, default_features
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.wire.net_control import RxMode, RxModeSet, VqPairsSet
from cvqd.wire.vhost_user import FrontRequest, ProtocolFeature
from cvqd.wire.vhost_user_payloads import encode_u64
from cvqd.wire.virtio import Feature, mask_of
from kit.rig import BROADCAST, MAC_A, MAC_B, Rig, frame, jumping_clock, settled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cvqd.testing.steps import Step
    from kit.rig import Guest

FOUR = SimulatorSpec(max_queue_pairs=4)
OTHER = bytes.fromhex("525400dd0004")


async def enable(guest, pair: int, *, on: bool) -> None:
    for index in (2 * pair, 2 * pair + 1):
        await guest.front_end.set_vring_enable(index, enable=on)
    await settled()


def shown(rig: Rig) -> tuple[int, bool]:
    state = rig.status["state"]
    return state["pairs"], state["rx"]["promisc"]


def on_device(rig: Rig) -> tuple[int, bool]:
    state = rig.device.net.control.state
    return state.pairs, RxMode.PROMISC in state.modes


async def test_a_guest_whose_filters_never_arrive_gets_every_frame(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, FOUR) as rig, rig.guest("qemu-net") as guest:
        await guest.start()
        assert rig.device.net.negotiation.features & mask_of(Feature.CTRL_VQ, Feature.CTRL_RX, Feature.MQ)
        assert not rig.device.net.negotiation.features & Feature.CTRL_VLAN.mask
        assert RxMode.ALLMULTI in rig.device.net.control.state.modes
        assert on_device(rig) == shown(rig) == (4, True)
        assert rig.log.of("cvq.driven")[-1].items() >= {"pairs": 4, "promiscuous": True}.items()
        guest.driver.fill()
        for destination in (MAC_A, OTHER, BROADCAST, bytes.fromhex("01005e000001")):
            assert await guest.echo(frame(destination))
        assert await guest.echo(frame(MAC_B, vlan=7))


async def test_pairs_follow_the_rings_that_the_front_end_enables(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, FOUR) as rig, rig.guest("qemu-net") as guest:
        await guest.start()
        for pair, on, pairs in ((3, False, 3), (2, False, 2), (2, True, 3), (1, False, 3), (3, True, 4)):
            await enable(guest, pair, on=on)
            assert on_device(rig) == shown(rig) == (pairs, True), (pair, on)
        acked = rig.log.of("cvq.command.acked")
        assert {event["command"] for event in acked} == {"mq.vq_pairs_set"}
        assert [event["ack"] for event in acked] == [0, 0, 0, 0], "one command for each change"
        assert len(rig.log.of("state.changed")) == 4
        assert len(rig.log.of("device.started")) == 1, "the device was never stopped for it"
        assert rig.status["counters"]["answers"]["mq.vq_pairs_set"] == {"ok": 4}
        for pair in range(4):
            guest.driver.fill(pair)
            assert await guest.echo(frame(OTHER, b"%d" % pair), pair)


async def test_a_change_is_made_before_the_front_end_has_its_answer(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, FOUR) as rig, rig.guest("qemu-net") as guest:
        await guest.start()
        await guest.front_end.set_vring_enable(7, enable=False)
        assert on_device(rig)[0] == 3


async def test_rings_enabled_before_the_start_are_the_pairs_it_begins_with(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, FOUR) as rig, rig.guest("qemu-net") as guest:
        await start_without(guest, FrontRequest.SET_VRING_ENABLE)
        assert rig.owner.running == frozenset(range(8))
        assert on_device(rig) == shown(rig) == (2, True)


async def test_rings_that_are_enabled_and_not_there_are_no_pairs(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, FOUR) as rig, rig.guest("qemu-net") as guest:
        await start_without(guest, FrontRequest.SET_VRING_ADDR)
        assert rig.owner.running == frozenset(range(4))
        assert on_device(rig) == shown(rig) == (2, True)


async def start_without(guest: Guest, left_out: FrontRequest) -> None:
    """QEMU's start, but for one request for the rings of the last two pairs."""
    for step in list_without(guest, left_out):
        await guest.front_end.request(
            step.request, step.payload, step.descriptors, need_reply=step.need_reply
        )
    await guest.front_end.get_features()


def list_without(guest: Guest, left_out: FrontRequest) -> Iterator[Step]:
    sequence = guest.order.start(guest.setup)
    answer = None
    while True:
        try:
            step = sequence.send(answer)
        except StopIteration:
            return
        # the sequence asks only for the status, which nobody has set
        answer = encode_u64(0x0B) if step.request == FrontRequest.GET_STATUS else None
        # the ring's number comes first
        if step.request != left_out or step.payload[0] not in (4, 5, 6, 7):
            yield step


async def test_what_was_enabled_survives_a_stop_of_the_guest(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, FOUR) as rig, rig.guest("qemu-net") as guest:
        await guest.start()
        await enable(guest, 3, on=False)
        await guest.stop()
        await enable(guest, 2, on=False)
        assert on_device(rig)[0] == 1, "a device at rest is told nothing"
        guest.driver.restart()
        await guest.start()
        assert on_device(rig) == shown(rig) == (4, True), "QEMU says what is enabled at each start"


@jumping_clock
@pytest.mark.parametrize("action", [FaultAction.ERR, FaultAction.DROP])
async def test_a_device_that_refuses_is_in_the_log_and_the_front_end_is_not_told(
    tmp_path: Path, action: FaultAction
) -> None:
    spec = SimulatorSpec(max_queue_pairs=4)
    async with Rig.opened(tmp_path, spec) as rig, rig.guest("qemu-net") as guest:
        await guest.start()
        rig.device.faults.add(Fault("mq.vq_pairs_set", action))
        await guest.front_end.set_vring_enable(6, enable=False)
        await settled()
        assert shown(rig) == (4, True)
        outcome = "err" if action is FaultAction.ERR else "expired"
        assert rig.status["counters"]["answers"]["mq.vq_pairs_set"] == {outcome: 1}
        assert rig.status["state"]["uncertain"] is (action is FaultAction.DROP)
        await guest.front_end.set_vring_enable(7, enable=False)
        await settled()
        assert on_device(rig) == shown(rig) == (3, True), "the next message is another try"


async def test_a_device_without_filters_or_pairs_is_told_nothing_and_the_log_says_what_that_means(
    tmp_path: Path,
) -> None:
    word = default_features(1) & ~mask_of(Feature.CTRL_RX, Feature.CTRL_RX_EXTRA)
    async with (
        Rig.opened(tmp_path, SimulatorSpec(features=word)) as rig,
        rig.guest("qemu-net") as guest,
    ):
        await guest.start()
        await enable(guest, 0, on=False)
        assert shown(rig) == (1, False)
        assert rig.log.of("cvq.not_promiscuous")[-1]["reason"] == "the device lacks CTRL_RX"
        assert not rig.log.of("state.replayed")
        assert not rig.log.of("cvq.command.acked")


async def test_the_sites_policy_holds_for_commands_of_our_own(tmp_path: Path) -> None:
    site = SitePolicy(promiscuous=False, pairs=2)
    async with Rig.opened(tmp_path, FOUR, site=site) as rig, rig.guest("qemu-net") as guest:
        await guest.start()
        assert on_device(rig) == shown(rig) == (2, False)
        assert rig.log.of("cvq.not_promiscuous")[-1]["reason"] == "the site's policy refuses it"
        guest.driver.fill()
        assert not await guest.echo(frame(OTHER))
        assert await guest.echo(frame(rig.device.net.control.state.mac))


async def test_a_guest_that_brings_its_control_queue_is_left_alone(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, FOUR) as rig, rig.guest("qemu") as guest:
        await guest.start()
        assert on_device(rig) == (1, True), "as after a reset"
        await enable(guest, 3, on=False)
        assert on_device(rig) == (1, True)
        assert not rig.log.of("cvq.driven")
        assert not rig.log.of("state.replayed")


async def test_a_control_queue_that_the_guest_took_and_its_front_end_kept_is_driven(tmp_path: Path) -> None:
    """cloud-hypervisor passes CTRL_VQ on and serves the ring itself."""
    async with Rig.opened(tmp_path, FOUR) as rig, rig.guest("cloud-hypervisor") as guest:
        assert guest.features & Feature.CTRL_VQ.mask
        await guest.front_end.play(guest.order.start(guest.setup))
        for _ in range(2):
            for pair in range(4):
                guest.driver.fill(pair)
            await settled()
            assert rig.owner.running == set(range(8))
            assert on_device(rig) == shown(rig) == (4, True)
            assert await guest.echo(frame(OTHER), pair=3)
            # it repeats itself
            await guest.front_end.set_features(guest.features | Feature.PROTOCOL_FEATURES.mask)
            await guest.stop()
            guest.driver.restart()
            await guest.front_end.play(guest.order.start(guest.setup))
        assert not rig.log.of("frontend.denied")
        assert not rig.log.of("frontend.refused")


async def test_a_guest_behind_it_goes_on_after_a_pause_and_after_a_snapshot(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path) as rig, rig.guest("cloud-hypervisor") as guest:
        await guest.front_end.play(guest.order.start(guest.setup))
        guest.driver.fill()
        await settled()
        for on in (False, True):
            for index in range(4):
                await guest.front_end.set_vring_enable(index, enable=on)
        await settled()
        assert await guest.echo(frame(OTHER))
        for index in range(4):
            await guest.front_end.set_vring_enable(index, enable=False)
        bases = [await guest.front_end.get_vring_base(index) for index in range(4)]
        saved = await guest.front_end.save_state()
        assert saved
        rings = tuple(
            replace(ring, base=base) for ring, base in zip(guest.setup.rings, [*bases, 0], strict=True)
        )
        await guest.front_end.play(guest.order.start(guest.setup._replace(rings=rings)))
        await settled()
        assert await guest.echo(frame(OTHER))


async def test_a_front_end_that_sets_up_the_control_queue_late_is_waited_for(tmp_path: Path) -> None:
    """Its guest's kicks may be there already: one that goes on would lose its state to a start without it."""
    async with Rig.opened(tmp_path) as rig, rig.guest("crosvm") as guest:
        whole = guest.setup
        await guest.front_end.play(guest.order.start(whole._replace(rings=whole.rings[:4])))
        guest.driver.fill()
        await settled()
        assert not rig.owner.running
        for step in guest.order.start(whole._replace(rings=whole.rings[4:])):
            if step.request.name.startswith("SET_VRING"):
                await guest.front_end.request(step.request, step.payload, step.descriptors)
        await guest.front_end.get_features()
        assert rig.owner.running == set(range(5))
        await guest.set_mac(MAC_A)


async def test_features_that_need_the_control_queue_a_front_end_kept_are_kept_from_the_device(
    tmp_path: Path,
) -> None:
    """As DPDK's virtio-user passes them on: all but CTRL_VQ itself."""
    site = SitePolicy(vlans=frozenset({5}))
    async with Rig.opened(tmp_path, FOUR, site=site) as rig:
        word = rig.features & ~Feature.CTRL_VQ.mask
        async with rig.guest("qemu-net", features=word) as guest:
            await guest.start()
            told = rig.device.net.negotiation.features
            assert not told & mask_of(Feature.CTRL_MAC_ADDR, Feature.GUEST_ANNOUNCE, Feature.NOTF_COAL)
            assert told & Feature.MQ.mask
            assert on_device(rig) == shown(rig) == (4, True)
            assert rig.device.net.control.state.vlans == {5}, "the site's, as for a guest without CTRL_VLAN"


@pytest.mark.parametrize("mtu", [67, 1501, 1 << 32])
async def test_an_mtu_that_the_device_does_not_have_is_refused(tmp_path: Path, mtu: int) -> None:
    async with Rig.opened(tmp_path, FOUR) as rig, await rig.connect() as front_end:
        offered = await front_end.get_protocol_features()
        await front_end.set_protocol_features(offered)
        await front_end.request(FrontRequest.NET_SET_MTU, encode_u64(1500))
        with pytest.raises(FrontEndError, match="NET_SET_MTU was refused"):
            await front_end.request(FrontRequest.NET_SET_MTU, encode_u64(mtu))
        assert str(mtu) in rig.log.of("frontend.denied")[-1]["reason"]


async def test_without_an_mtu_of_the_devices_there_is_nothing_to_check_and_nobody_to_announce_for(
    tmp_path: Path,
) -> None:
    spec = SimulatorSpec(features=default_features(1) & ~Feature.MTU.mask)
    async with Rig.opened(tmp_path, spec) as rig, await rig.connect() as front_end:
        offered = await front_end.get_protocol_features()
        assert not offered & (ProtocolFeature.MTU.mask | ProtocolFeature.RARP.mask)


def test_the_opening_says_what_the_device_can_be_told():
    everything = mask_of(Feature.CTRL_VQ, Feature.CTRL_RX, Feature.MQ)
    receive = [RxModeSet(RxMode.PROMISC, 1), RxModeSet(RxMode.ALLMULTI, 1)]
    assert opening(everything, 3, promiscuous=True) == [*receive, VqPairsSet(3)]
    assert opening(everything, 1, promiscuous=True) == receive, "one pair is what a reset leaves"
    assert opening(everything, 3, promiscuous=False) == [VqPairsSet(3)]
    assert opening(Feature.CTRL_VQ.mask, 3, promiscuous=True) == []


@pytest.mark.parametrize(
    ("usable", "pairs"),
    [((), 1), ((0,), 1), ((0, 1), 1), ((0, 1, 2), 1), ((0, 1, 2, 3), 2), ((2, 3), 2), ((0, 1, 8, 9), 1)],
)
def test_the_number_of_pairs_reaches_to_the_last_complete_one(usable, pairs):
    assert pairs_of(usable, 4) == pairs
