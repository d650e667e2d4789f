"""Each of the site's rules: what it refuses by name, what it lets through, what it makes of a device."""

from __future__ import annotations

import pytest

from cvqd.core.site_policy import MacRule, MacTableRule, SitePolicy
from cvqd.errors import GuestError
from cvqd.wire.net_control import (
    COMMANDS,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxMode,
    RxModeSet,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.virtio import Feature, mask_of

MAC = bytes.fromhex("525400000001")
OTHER = bytes.fromhex("0200000000ff")
CONTROL = mask_of(Feature.CTRL_VQ, Feature.CTRL_RX, Feature.CTRL_VLAN)
STRICT = SitePolicy(
    mac=MacRule(()),
    promiscuous=False,
    all_multicast=False,
    vlans=frozenset(),
    mac_table=MacTableRule(0, 0),
    pairs=1,
)


def rss(*table: int, unclassified: int = 0, max_tx_vq: int = 1) -> RssConfig:
    return RssConfig(1, len(table) - 1, unclassified, table, max_tx_vq, bytes(40))


def on(mode: RxMode) -> RxModeSet:
    return RxModeSet(mode, 1)


def vlans(*ids: int) -> SitePolicy:
    return SitePolicy(vlans=frozenset(ids))


REFUSED = [
    (SitePolicy(mac=MacRule(())), MacAddrSet(MAC), "site.mac"),
    (SitePolicy(mac=MacRule((MAC,))), MacAddrSet(MAC[:5] + b"\2"), "site.mac"),
    (SitePolicy(mac=MacRule((MAC[:3],))), MacAddrSet(OTHER), "site.mac"),
    (SitePolicy(promiscuous=False), on(RxMode.PROMISC), "site.promiscuous"),
    (SitePolicy(promiscuous=False), on(RxMode.ALLUNI), "site.promiscuous"),
    (SitePolicy(all_multicast=False), on(RxMode.ALLMULTI), "site.all_multicast"),
    (vlans(), VlanAdd(1), "site.vlan"),
    (vlans(5, 4094), VlanAdd(4), "site.vlan"),
    (vlans(5, 4094), VlanAdd(4095), "site.vlan"),
    (SitePolicy(mac_table=MacTableRule(unicast=1)), MacTableSet((MAC, OTHER), ()), "site.mac_table"),
    (SitePolicy(mac_table=MacTableRule(multicast=0)), MacTableSet((), (b"\1" * 6,)), "site.mac_table"),
    (SitePolicy(pairs=2), VqPairsSet(3), "site.pairs"),
    (SitePolicy(pairs=2), rss(0, 1, 2, 0), "site.pairs"),
    (SitePolicy(pairs=2), rss(0, max_tx_vq=3), "site.pairs"),
    (SitePolicy(pairs=2), rss(0, unclassified=2), "site.pairs"),
]

ALLOWED = [
    (SitePolicy(mac=MacRule((OTHER, MAC))), MacAddrSet(MAC)),
    (SitePolicy(mac=MacRule((MAC[:3],))), MacAddrSet(MAC)),
    (SitePolicy(promiscuous=False), on(RxMode.ALLMULTI)),
    (SitePolicy(promiscuous=False), on(RxMode.NOUNI)),
    (SitePolicy(all_multicast=False), on(RxMode.PROMISC)),
    (vlans(5, 4094), VlanAdd(5)),
    (vlans(5, 4094), VlanAdd(4094)),
    # Linux adds it whenever its VLAN module is there; frames with it belong to no VLAN
    (vlans(), VlanAdd(0)),
    (SitePolicy(mac_table=MacTableRule(1, 2)), MacTableSet((MAC,), (OTHER, OTHER))),
    (SitePolicy(mac_table=MacTableRule(unicast=0)), MacTableSet((), (OTHER,) * 1000)),
    (SitePolicy(pairs=2), VqPairsSet(2)),
    (SitePolicy(pairs=2), rss(0, 1, 1, 0, unclassified=1, max_tx_vq=2)),
]


@pytest.mark.parametrize(("site", "command", "rule"), REFUSED, ids=str)
def test_what_a_rule_forbids_is_refused_in_its_name(site: SitePolicy, command, rule: str):
    with pytest.raises(GuestError) as caught:
        site.judge(command)
    assert caught.value.reason == rule


@pytest.mark.parametrize(("site", "command"), ALLOWED, ids=str)
def test_what_a_rule_does_not_forbid_is_let_through(site: SitePolicy, command):
    site.judge(command)


@pytest.mark.parametrize("command", [command for _, command, _ in REFUSED] + list(COMMANDS), ids=str)
def test_the_default_allows_everything(command):
    SitePolicy().judge(command)


@pytest.mark.parametrize(
    "command",
    [
        *(RxModeSet(mode, 0) for mode in RxMode),
        *(on(mode) for mode in (RxMode.NOMULTI, RxMode.NOUNI, RxMode.NOBCAST)),
        MacTableSet((), ()),
        VlanDel(7),
        VqPairsSet(1),
        rss(0, 0),
    ],
    ids=str,
)
def test_what_a_guest_gives_up_is_refused_by_no_rule(command):
    STRICT.judge(command)


def test_the_address_a_guest_began_with_is_always_its_own():
    site = STRICT.allowing(MAC)
    site.judge(MacAddrSet(MAC))
    with pytest.raises(GuestError, match=r"site\.mac: the guest may not take 02:00:00:00:00:ff"):
        site.judge(MacAddrSet(OTHER))


def test_a_state_from_other_times_is_told_by_the_rules_that_it_breaks():
    commands = [MacAddrSet(OTHER), VlanAdd(3), VlanAdd(4), on(RxMode.PROMISC), RxModeSet(RxMode.ALLMULTI, 0)]
    assert STRICT.allowing(MAC).broken_by(commands) == ["site.mac", "site.promiscuous", "site.vlan"]
    assert SitePolicy().broken_by(commands) == []


def test_rules_that_hold_only_on_some_devices_say_which_feature_they_need():
    assert SitePolicy().needs == {}
    assert STRICT.needs == {"site.promiscuous": Feature.CTRL_RX, "site.vlan": Feature.CTRL_VLAN}
    assert STRICT.features == mask_of(Feature.CTRL_RX, Feature.CTRL_VLAN)


def test_a_device_begins_as_the_rules_want_it_whatever_its_guest_says_later():
    quiet = SitePolicy(promiscuous=False)
    off = RxModeSet(RxMode.PROMISC, 0)
    assert SitePolicy().opening(CONTROL, CONTROL) == []
    assert quiet.opening(CONTROL, CONTROL) == [off]
    assert quiet.opening(CONTROL, 0) == [], "the device cannot be told"


def test_a_guest_that_cannot_ask_for_groups_and_vlans_is_given_what_it_may_have():
    off = RxModeSet(RxMode.PROMISC, 0)
    assert SitePolicy(promiscuous=False).opening(0, CONTROL) == [off, on(RxMode.ALLMULTI)]
    assert SitePolicy(promiscuous=False, all_multicast=False).opening(0, CONTROL) == [off]
    assert vlans(5, 4094).opening(0, CONTROL) == [VlanAdd(5), VlanAdd(4094)]
    assert vlans(5).opening(CONTROL, CONTROL) == []
    assert vlans(5).opening(0, 0) == []


@pytest.mark.parametrize("site", [SitePolicy(promiscuous=False), vlans(5), vlans(), STRICT], ids=str)
@pytest.mark.parametrize("guest", [0, CONTROL])
def test_no_rule_is_broken_by_what_it_makes_us_send(site: SitePolicy, guest: int):
    assert site.broken_by(site.opening(guest, CONTROL)) == []
