"""The site's policy on a running guest: refused by name, allowed, and what changes while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from cvqd.core.site_policy import EVERYTHING, MacRule, MacTableRule, SitePolicy
from cvqd.simulator.spec import SUPPORTED_FEATURES, Fault, FaultAction, SimulatorSpec
from cvqd.wire.net_config import decode
from cvqd.wire.net_control import ERR, OK, MacAddrSet, MacTableSet, RxMode, RxModeSet, VlanAdd, VqPairsSet
from cvqd.wire.virtio import Feature
from kit.rig import MAC_A, MAC_B, Guest, Rig, frame, jumping_clock, settled

if TYPE_CHECKING:
    from pathlib import Path

    from cvqd.wire.net_control import Command

GROUP = bytes.fromhex("01005e000001")
OTHERS = bytes.fromhex("5254000000ee")

#: per rule: the policy, what it refuses and what it lets through
RULES: dict[str, tuple[SitePolicy, Command, Command]] = {
    "site.mac": (SitePolicy(mac=MacRule((MAC_A[:4],))), MacAddrSet(MAC_B), MacAddrSet(MAC_A)),
    "site.promiscuous": (
        SitePolicy(promiscuous=False),
        RxModeSet(RxMode.PROMISC, 1),
        RxModeSet(RxMode.PROMISC, 0),
    ),
    "site.all_multicast": (
        SitePolicy(all_multicast=False),
        RxModeSet(RxMode.ALLMULTI, 1),
        RxModeSet(RxMode.ALLMULTI, 0),
    ),
    "site.vlan": (SitePolicy(vlans=frozenset({5})), VlanAdd(6), VlanAdd(5)),
    "site.mac_table": (
        SitePolicy(mac_table=MacTableRule(unicast=0)),
        MacTableSet((MAC_B,), ()),
        MacTableSet((), (GROUP,)),
    ),
    "site.pairs": (SitePolicy(pairs=1), VqPairsSet(2), VqPairsSet(1)),
}


def amend(rig: Rig, site: SitePolicy, deadline: float = 1.0) -> None:
    rig.owner.amend(site=site, deadline=deadline)
    rig.owner.check_site()


def refusals(rig: Rig) -> list[tuple[object, object]]:
    return [(event["command"], event["reason"]) for event in rig.log.of("cvq.command.refused")]


def without(*features: Feature) -> int:
    word = SUPPORTED_FEATURES
    for feature in features:
        word &= ~feature.mask
    return word


async def started(guest: Guest) -> None:
    await guest.start()
    for pair in range(len(guest.driver.receive)):
        guest.driver.fill(pair, buffers=8)
    await settled()


async def started_anew(guest: Guest) -> None:
    await guest.stop()
    guest.driver.restart()
    await started(guest)


@jumping_clock
@pytest.mark.parametrize("rule", RULES)
async def test_a_rule_refuses_by_name_and_lets_the_rest_through(tmp_path: Path, rule: str) -> None:
    site, refused, allowed = RULES[rule]
    # the guest was offered two pairs; a rule from the start would offer it one
    async with Rig.opened(tmp_path) as rig, rig.guest() as guest:
        await started(guest)
        amend(rig, site)
        before = rig.owner.state
        device = rig.device.net.control.state
        assert await guest.command(refused.encode()) == ERR
        await settled()
        assert refusals(rig) == [(refused.name, rule)]
        assert rig.owner.state == before
        assert rig.device.net.control.state == device, "the device was not asked"
        assert await guest.command(allowed.encode()) == OK
        await settled()
        assert rig.owner.state == before.after(allowed)
        assert refusals(rig) == [(refused.name, rule)]

        amend(rig, EVERYTHING)
        assert await guest.command(refused.encode()) == OK
        await settled()
        assert rig.owner.state == before.after(allowed).after(refused)

        amend(rig, site)
        assert await guest.command(refused.encode()) == ERR
        await settled()
        assert refusals(rig) == [(refused.name, rule)] * 2


@jumping_clock
async def test_a_guest_may_always_return_to_the_address_it_began_with(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path) as rig, rig.guest() as guest:
        await started(guest)
        own = rig.owner.state.mac
        await guest.set_mac(MAC_A)
        amend(rig, SitePolicy(mac=MacRule(())))
        assert await guest.command(MacAddrSet(MAC_A).encode()) == ERR
        await guest.set_mac(own)
        assert refusals(rig) == [("mac.addr_set", "site.mac")]


@jumping_clock
async def test_a_command_in_flight_keeps_its_judgement_and_the_next_has_the_new_one(tmp_path: Path) -> None:
    slow = Fault("mac.addr_set", FaultAction.DELAY, delay=0.5, count=1)
    spec = SimulatorSpec(faults=(slow,))
    async with Rig.opened(tmp_path, spec) as rig, rig.guest() as guest:
        await started(guest)
        head = guest.driver.post_command(MacAddrSet(MAC_A).encode())
        guest.control.notify()
        await settled()
        run = rig.owner._run
        assert run is not None
        assert run.queue is not None
        assert run.queue.in_flight == 1
        amend(rig, SitePolicy(mac=MacRule(())))
        await guest.control.wait()
        assert guest.driver.take_ack(head) == OK
        assert await guest.command(MacAddrSet(MAC_B).encode()) == ERR


@jumping_clock
async def test_a_new_deadline_holds_for_the_next_command(tmp_path: Path) -> None:
    spec = SimulatorSpec(faults=(Fault("mac.addr_set", FaultAction.DROP),))
    async with Rig.opened(tmp_path, spec, deadline=60) as rig, rig.guest() as guest:
        await started(guest)
        amend(rig, EVERYTHING, deadline=0.25)
        before = trio.current_time()
        assert await guest.command(MacAddrSet(MAC_A).encode()) == ERR
        assert trio.current_time() - before == pytest.approx(0.25)
        await settled()
        assert [event["command"] for event in rig.log.of("cvq.command.expired")] == ["mac.addr_set"]


@jumping_clock
async def test_a_device_is_not_promiscuous_because_its_guest_says_nothing(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, site=SitePolicy(promiscuous=False)) as rig, rig.guest() as guest:
        await started(guest)
        assert rig.owner.state.rx == 0
        assert rig.device.net.control.state.modes == set()
        assert not await guest.echo(frame(OTHERS))
        assert await guest.echo(frame(rig.owner.state.mac))
        # each new driver's life begins so
        await started_anew(guest)
        assert not await guest.echo(frame(OTHERS))
    async with Rig.opened(tmp_path) as rig, rig.guest() as guest:
        await started(guest)
        assert await guest.echo(frame(OTHERS)), "the rule made the difference"


@jumping_clock
async def test_a_guest_without_receive_modes_gets_its_own_frames_and_all_groups(tmp_path: Path) -> None:
    async with (
        Rig.opened(tmp_path, site=SitePolicy(promiscuous=False)) as rig,
        rig.guest("qemu-net") as guest,
    ):
        await started(guest)
        assert not rig.owner.features & Feature.CTRL_RX.mask
        assert rig.device.net.control.state.modes == {RxMode.ALLMULTI}
        assert rig.owner.state.rx == 1 << RxMode.ALLMULTI
        assert rig.log.of("state.replayed")[-1]["commands"] == 3, "the device was told, its pairs too"
        assert await guest.echo(frame(rig.owner.state.mac))
        assert await guest.echo(frame(GROUP))
        assert not await guest.echo(frame(OTHERS))


@jumping_clock
async def test_a_guest_without_vlan_filtering_gets_the_vlans_of_the_site(tmp_path: Path) -> None:
    site = SitePolicy(promiscuous=False, vlans=frozenset(range(100, 200)))
    async with Rig.opened(tmp_path, site=site) as rig, rig.guest("qemu-net") as guest:
        await started(guest)
        own = rig.owner.state.mac
        assert rig.owner.state.vlan_ids() == list(range(100, 200))
        assert await guest.echo(frame(own, vlan=150))
        assert not await guest.echo(frame(own, vlan=200))


@jumping_clock
async def test_tables_that_the_device_refuses_make_it_promiscuous_only_where_a_guest_may_be(
    tmp_path: Path,
) -> None:
    table = MacTableSet((MAC_B,), ())
    spec = SimulatorSpec(faults=(Fault("mac.table_set", FaultAction.ERR),))
    for site, answer in ((SitePolicy(promiscuous=False), ERR), (EVERYTHING, OK)):
        async with Rig.opened(tmp_path, spec, site=site) as rig, rig.guest() as guest:
            await started(guest)
            assert await guest.command(RxModeSet(RxMode.PROMISC, 0).encode()) == OK
            assert await guest.command(table.encode()) == answer
            await settled()
            assert await guest.echo(frame(OTHERS)) == (answer == OK)


@jumping_clock
async def test_a_guest_is_not_offered_more_pairs_than_the_site_lets_it_have(tmp_path: Path) -> None:
    spec = SimulatorSpec(max_queue_pairs=4)
    async with Rig.opened(tmp_path, spec, site=SitePolicy(pairs=2)) as rig, rig.guest() as guest:
        await started(guest)
        assert decode(await guest.front_end.get_config(0, 24)).max_virtqueue_pairs == 2
        assert rig.owner.guest_cvq == 4
        assert rig.owner.current.isolation.cvq is not None
        assert rig.owner.current.isolation.cvq.index == 8, "the device's own stays where it is"
        assert await guest.command(VqPairsSet(2).encode()) == OK
        assert await guest.command(VqPairsSet(3).encode()) == ERR
        assert await guest.echo(frame(rig.owner.state.mac), pair=1)


@jumping_clock
async def test_a_rule_that_the_device_cannot_keep_is_said_before_a_guest_is_there(tmp_path: Path) -> None:
    blind = without(Feature.CTRL_RX, Feature.CTRL_RX_EXTRA, Feature.CTRL_VLAN)
    spec = SimulatorSpec(features=blind, max_queue_pairs=2)
    site = SitePolicy(promiscuous=False, vlans=frozenset({5}), all_multicast=False)
    async with Rig.opened(tmp_path, spec, site=site) as rig:
        assert rig.log.of("policy.not_enforced") == [
            {"rule": "site.promiscuous", "feature": "CTRL_RX"},
            {"rule": "site.vlan", "feature": "CTRL_VLAN"},
        ]
        async with rig.guest() as guest:
            await started(guest)
            assert await guest.command(MacAddrSet(MAC_A).encode()) == OK
    async with Rig.opened(tmp_path, site=site) as rig:
        assert rig.log.of("policy.not_enforced") == []


@jumping_clock
async def test_what_a_guest_set_before_a_rule_came_is_said_and_stays_until_it_starts_anew(
    tmp_path: Path,
) -> None:
    async with Rig.opened(tmp_path) as rig, rig.guest() as guest:
        await started(guest)
        for command in (VlanAdd(7), MacAddrSet(MAC_A)):
            assert await guest.command(command.encode()) == OK
        await settled()
        amend(rig, SitePolicy(mac=MacRule(()), promiscuous=False, vlans=frozenset({5})))
        state = rig.owner.state
        assert rig.log.of("policy.exceeded") == [
            {"rules": ["site.mac", "site.promiscuous", "site.vlan"], "digest": state.digest()}
        ]
        assert await guest.echo(frame(OTHERS))
        await started_anew(guest)
        assert not await guest.echo(frame(OTHERS))
        assert rig.owner.state.vlans == 0
        amend(rig, SitePolicy(promiscuous=False))
        assert len(rig.log.of("policy.exceeded")) == 1
