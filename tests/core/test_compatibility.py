from __future__ import annotations

from dataclasses import replace

import pytest

from cvqd.core.coalescing import CoalescingTable
from cvqd.core.compatibility import shortcomings, usable
from cvqd.core.features import FeatureOffer, offer
from cvqd.core.lifecycle import DeviceFacts
from cvqd.core.tracked import TrackedState
from cvqd.errors import CompatibilityError, SnapshotError
from cvqd.simulator.control import HASH_TYPES, MAX_KEY, MAX_TABLE
from cvqd.simulator.spec import SimulatorSpec
from cvqd.wire.net_config import NetConfig
from cvqd.wire.net_control import (
    Coalescing,
    CoalVqSet,
    GuestOffloadsSet,
    HashConfig,
    MacAddrSet,
    RssConfig,
    VlanAdd,
    VqPairsSet,
)
from cvqd.wire.snapshot import RingBase, Snapshot
from cvqd.wire.vhost_vdpa import Backend, IovaRange
from cvqd.wire.virtio import Feature, mask_of
from kit.snapshot_examples import MAC, largest_state, snapshot_of

PAIRS = 8
CONFIG = NetConfig(
    MAC,
    max_virtqueue_pairs=PAIRS,
    rss_max_key_size=MAX_KEY,
    rss_max_indirection_table_length=MAX_TABLE,
    supported_hash_types=HASH_TYPES,
)
FACTS = DeviceFacts(
    features=SimulatorSpec(max_queue_pairs=PAIRS).offered_features,
    backend_features=Backend.SUSPEND.mask,
    vring_num=256,
    smallest_ring=256,
    vqs=2 * PAIRS + 1,
    group_count=2,
    address_spaces=2,
    iova=IovaRange(0, (1 << 64) - 1),
    config=CONFIG.encode(),
    max_pairs=PAIRS,
)


def offered(facts: DeviceFacts = FACTS) -> FeatureOffer:
    return offer(facts.features, facts.max_pairs, facts.vqs)


FEATURES = offered().features & ~mask_of(Feature.PROTOCOL_FEATURES, Feature.RING_PACKED)
RINGS = tuple(RingBase(index, 256, 17) for index in range(2 * PAIRS + 1))


def taken(*commands: object, **parts: object) -> Snapshot:
    state = TrackedState(MAC)
    for command in commands:
        state = state.after(command)  # type: ignore[arg-type]
    fields = {"features": FEATURES, "max_pairs": PAIRS, "config": CONFIG.encode(), "rings": RINGS, **parts}
    return snapshot_of(state, **fields)


def found(snapshot: Snapshot, facts: DeviceFacts = FACTS, **changes: object) -> list[str]:
    facts = replace(facts, **changes)  # type: ignore[arg-type]
    try:
        usable(snapshot, offered(facts), facts)
    except CompatibilityError as error:
        return error.shortcomings
    return []


def config(**changes: object) -> bytes:
    return CONFIG._replace(**changes).encode()  # type: ignore[arg-type]


def test_a_device_takes_what_its_like_was():
    state = largest_state(PAIRS)
    snapshot = snapshot_of(state, features=FEATURES, max_pairs=PAIRS, config=CONFIG.encode(), rings=RINGS)
    assert usable(snapshot, offered(), FACTS) == state


def test_every_reason_is_named_at_once():
    less = FACTS.features & ~mask_of(Feature.NOTF_COAL, Feature.CTRL_VLAN)
    assert found(taken(VlanAdd(5)), features=less, vring_num=128, config=config(mtu=1400))[:3] == [
        "features: CTRL_VLAN is not offered",
        "features: NOTF_COAL is not offered",
        "mtu: 1400 is less than the guest's 1500",
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": config(mtu=1499)}, "mtu: 1499 is less than the guest's 1500"),
        ({"config": config(rss_max_key_size=39)}, "rss: keys of 39 bytes, the guest was told 40"),
        (
            {"config": config(rss_max_indirection_table_length=64)},
            f"rss: tables of 64 entries, the guest was told {MAX_TABLE}",
        ),
        ({"config": config(supported_hash_types=HASH_TYPES & ~6)}, "rss: hash types 0x6 are not supported"),
        ({"vring_num": 128}, "ring 0: 256 descriptors, 128 is the most"),
        ({"keeps_indices": False}, "ring 0: it was used, and the device takes no ring indices"),
    ],
)
def test_a_device_that_can_less_is_refused(changes, reason):
    assert found(taken(), **changes)[0] == reason
    assert not found(
        taken(features=FEATURES & ~mask_of(Feature.MTU, Feature.RSS, Feature.HASH_REPORT), rings=()),
        **changes,
    )


def test_a_device_may_be_able_to_do_more():
    assert not found(taken(), config=config(mtu=9000, rss_max_key_size=52), vring_num=1024)


def test_the_guest_s_control_queue_stays_where_it_is():
    more = offered()._replace(max_pairs=PAIRS + 1)
    reason = f"pairs: the guest was offered {PAIRS}, here it is {PAIRS + 1}"
    assert shortcomings(taken(), TrackedState(MAC), more, FACTS) == [reason]
    one = taken(features=FEATURES & ~mask_of(Feature.MQ, Feature.RSS), rings=RINGS[:3])
    assert not shortcomings(one, TrackedState(MAC), more, FACTS)


def test_a_legacy_driver_is_refused():
    reasons = found(taken(features=FEATURES & ~Feature.VERSION_1.mask))
    assert reasons == ["features: the guest's driver is a legacy one"]


def test_an_address_that_nobody_can_set_has_to_be_the_device_s_own():
    fixed = FEATURES & ~Feature.CTRL_MAC_ADDR.mask
    elsewhere = config(mac=bytes.fromhex("525400000002"))
    assert not found(taken(features=fixed))
    assert found(taken(features=fixed), config=elsewhere) == [
        "mac: 52:54:00:00:00:01 cannot be set, the device has 52:54:00:00:00:02"
    ]
    assert not found(taken(), config=elsewhere)
    # where the front-end keeps the control queue the address is its own affair, and the device promiscuous
    kept = FEATURES & ~mask_of(Feature.CTRL_VQ, Feature.CTRL_MAC_ADDR, Feature.GUEST_ANNOUNCE)
    assert not found(taken(features=kept, rings=()), config=elsewhere)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (MacAddrSet(b"\1" + MAC[1:]), "mac.addr_set: mac.not_unicast"),
        (VqPairsSet(PAIRS + 1), "mq.vq_pairs_set: mq.pairs"),
        (RssConfig(0, 1, 0, (0, PAIRS), 1, b""), "mq.rss_config: rss.queue"),
        (RssConfig(1, 0, 0, (0,), 1, bytes(41)), "mq.rss_config: hash.key"),
        (HashConfig(1 << 20, b"k"), "mq.hash_config: hash.types"),
        (HashConfig(1, b"k", b"x" * 8), "mq.hash_config: hash.reserved"),
        (GuestOffloadsSet(1 << 40), "guest_offloads.set: offloads.not_negotiated"),
        (CoalVqSet(2 * PAIRS, Coalescing(1, 1)), "notf_coal.vq_set: coalescing.queue"),
    ],
)
def test_what_no_guest_could_have_set_is_refused_by_the_rule_for_guests(command, reason):
    reasons = found(taken(command))
    assert len(reasons) == 1
    assert reasons[0].startswith(reason)


@pytest.mark.parametrize(
    ("ring", "features", "reason"),
    [
        (RingBase(2 * PAIRS + 1, 256, 0), FEATURES, f"ring 17: the guest has {2 * PAIRS + 1} rings"),
        (
            RingBase(2, 256, 0),
            FEATURES & ~mask_of(Feature.CTRL_VQ, Feature.MQ, Feature.RSS),
            "ring 2: the guest has 2 rings",
        ),
        (RingBase(0, 256, 0x10000), FEATURES, "ring 0: 0x10000 is no place among 256 descriptors"),
        (
            RingBase(0, 256, 0x100),
            FEATURES | Feature.RING_PACKED.mask,
            "ring 0: 0x100 is no place among 256 descriptors",
        ),
    ],
)
def test_a_ring_where_none_can_be_is_refused(ring, features, reason):
    assert reason in found(taken(features=features, rings=(ring,)))


def test_a_device_without_indices_takes_rings_that_were_never_used():
    rings = (RingBase(0, 256, 0), RingBase(1, 256, 0), RingBase(16, 256, 40))
    assert not found(taken(rings=rings), keeps_indices=False)
    # one that ran has been used, for all that is known
    running = (RingBase(0, 256, None),)
    assert found(taken(rings=running), keeps_indices=False)
    assert not found(taken(rings=running))


def test_a_snapshot_that_is_wrong_in_itself_blames_no_device():
    with pytest.raises(SnapshotError, match="its commands lead to"):
        usable(taken(digest="0" * 16), offered(), FACTS)


@pytest.mark.timeout(20)
def test_a_snapshot_that_names_very_many_queues_is_refused_soon_and_in_a_line():
    many = [CoalVqSet(queue, Coalescing(1, queue)) for queue in range(20_000)]
    state = TrackedState(MAC)._replace(coalescing=CoalescingTable().after(*many))
    with pytest.raises(CompatibilityError, match=r"; and \d+ more$") as caught:
        usable(snapshot_of(state, features=FEATURES, config=FACTS.config), offered(), FACTS)
    assert len(caught.value.shortcomings) > 19_000
    assert len(str(caught.value)) < 10_000
