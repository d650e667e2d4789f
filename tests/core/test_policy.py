"""Each rule of virtio 1.3 §5.1.6.5 that a device must enforce, by its paragraph."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cvqd.core.policy import HashLimits, Policy, Route
from cvqd.core.tracked import TrackedState
from cvqd.errors import GuestError
from cvqd.wire.net_control import (
    COMMANDS,
    AnnounceAck,
    Coalescing,
    CoalRxSet,
    CoalTxSet,
    CoalVqGet,
    CoalVqSet,
    GuestOffloadsSet,
    HashConfig,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxMode,
    RxModeSet,
    StatsGet,
    StatsQuery,
    StatsRequest,
    StatsType,
    Unknown,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.virtio import Feature, mask_of

MAC = bytes.fromhex("525400000001")
STATE = TrackedState(MAC)
LIMITS = HashLimits(key=40, table=128, types=0x3F)
EVERYTHING = Policy(mask_of(*Feature), max_pairs=4, hashing=LIMITS, max_answer=4096)
KEY = bytes(range(40))
RSS = RssConfig(0x3F, 3, 0, (0, 1, 2, 3), 4, KEY)
SOME = Coalescing(8, 50)
RECEIVE = mask_of(StatsType.RX_BASIC, StatsType.RX_CSUM, StatsType.RX_GSO, StatsType.RX_SPEED)
TRANSMIT = mask_of(StatsType.TX_BASIC, StatsType.TX_CSUM, StatsType.TX_GSO, StatsType.TX_SPEED)


def stats(*requests: tuple[int, int]) -> StatsGet:
    return StatsGet(tuple(StatsRequest(queue, types) for queue, types in requests))


ALL = [
    MacAddrSet(MAC),
    MacTableSet((MAC,) * 100, (MAC,) * 1000),
    *(RxModeSet(mode, on) for mode in RxMode for on in (0, 1)),
    VlanAdd(0),
    VlanAdd(4095),
    VlanDel(4095),
    AnnounceAck(),
    VqPairsSet(1),
    VqPairsSet(4),
    RSS,
    RssConfig(0, 0, 3, (3,), 1, b""),
    RssConfig(1, 127, 0, (0,) * 128, 4, b"k"),
    HashConfig(0x3F, KEY),
    HashConfig(0, b""),
    GuestOffloadsSet(0),
    GuestOffloadsSet(mask_of(Feature.GUEST_CSUM, Feature.GUEST_TSO4, Feature.GUEST_USO6)),
    CoalTxSet(SOME),
    CoalRxSet(SOME),
    CoalVqSet(0, SOME),
    CoalVqSet(7, SOME, reserved=0xFFFF),  # §5.1.6.5.9.2: the device ignores reserved
    CoalVqGet(7),
    StatsQuery(),
    stats((0, RECEIVE), (7, TRANSMIT), (8, StatsType.CVQ.mask), (3, 0)),
]


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.name)
def test_a_proper_command_goes_to_the_device(command):
    assert EVERYTHING.judge(command, STATE) is Route.DEVICE


def test_each_command_there_is_is_among_them():
    assert {command.name for command in COMMANDS} == {command.name for command in ALL}


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.name)
def test_a_command_without_its_feature_is_refused(command):
    without = replace(EVERYTHING, features=mask_of(*Feature) & ~command.feature.mask)
    with pytest.raises(GuestError, match=r"command\.not_negotiated.*" + command.feature.name):
        without.judge(command, STATE)


@pytest.mark.parametrize(
    ("command", "rule"),
    [
        (Unknown(9, 0), "command.unknown"),
        (Unknown(4, 3), "command.unknown"),
        (Unknown(7, 0), "command.unknown"),
        (RxModeSet(RxMode.PROMISC, 2), "rx.value"),  # §5.1.6.5.1: the data is 0 or 1
        (MacAddrSet(bytes(6)), "mac.not_unicast"),
        (MacAddrSet(bytes.fromhex("01005e000001")), "mac.not_unicast"),
        (VlanAdd(4096), "vlan.id"),  # IEEE 802.1Q: 12 bits
        (VlanDel(65535), "vlan.id"),
        (VqPairsSet(0), "mq.pairs"),  # §5.1.6.5.5.1: 1 to max_virtqueue_pairs
        (VqPairsSet(5), "mq.pairs"),
        # §5.1.6.5.7.2: the number of entries is a power of two
        (replace(RSS, mask=2, table=(0, 1, 2)), "rss.table"),
        # §5.1.6.5.7.2: the mask is less than rss_max_indirection_table_length
        (replace(RSS, mask=255, table=(0,) * 256), "rss.table"),
        # §5.1.6.5.7.1: entries are ids of receive queues there are, bit 15 is zero
        (replace(RSS, table=(0, 1, 2, 4)), "rss.queue"),
        (replace(RSS, table=(0, 1, 2, 0x8001)), "rss.queue"),
        (replace(RSS, unclassified=4), "rss.queue"),
        (replace(RSS, unclassified=0x8000), "rss.queue"),
        (replace(RSS, max_tx_vq=0), "rss.max_tx_vq"),
        (replace(RSS, max_tx_vq=5), "rss.max_tx_vq"),
        # §5.1.6.5.7.2: no type that the device does not support
        (replace(RSS, hash_types=0x40), "hash.types"),
        (HashConfig(0x40, KEY), "hash.types"),
        # §5.1.4: rss_max_key_size is the longest key
        (replace(RSS, key=bytes(41)), "hash.key"),
        (HashConfig(1, bytes(41)), "hash.key"),
        (replace(RSS, key=b""), "hash.key"),
        (HashConfig(1, b""), "hash.key"),
        (HashConfig(1, KEY, b"\0\0\0\0\1\0\0\0"), "hash.reserved"),  # §5.1.6.5.6: reserved is zero
        # §5.1.6.5.8.1: only offloads whose feature was negotiated
        (GuestOffloadsSet(Feature.CSUM.mask), "offloads.not_negotiated"),
        (GuestOffloadsSet(1 << 46), "offloads.not_negotiated"),
        # §5.1.6.5.9.2: only enabled transmit or receive queues
        (CoalVqSet(8, SOME), "coalescing.queue"),
        (CoalVqSet(9, SOME), "coalescing.queue"),
        (CoalVqGet(8), "coalescing.queue"),
        (CoalVqGet(65535), "coalescing.queue"),
        # §5.1.6.5.10.12: a queue there is, types that are its own, each one's feature; one mistake fails all
        (stats((9, 0)), "stats.queue"),
        (stats((0, RECEIVE), (9, 0)), "stats.queue"),
        (stats((0, StatsType.TX_BASIC.mask)), "stats.types"),
        (stats((1, StatsType.RX_BASIC.mask)), "stats.types"),
        (stats((0, StatsType.CVQ.mask)), "stats.types"),
        (stats((8, StatsType.RX_BASIC.mask)), "stats.types"),
        (stats((0, 1 << 4)), "stats.types"),
        (stats((0, 1 << 63)), "stats.types"),
        (stats(*[(0, RECEIVE)] * 30), "stats.too_long"),
    ],
    ids=str,
)
def test_a_value_that_the_device_must_refuse_is_refused_by_name(command, rule):
    with pytest.raises(GuestError) as caught:
        EVERYTHING.judge(command, STATE)
    assert caught.value.reason == rule


def test_a_queue_that_the_front_end_left_disabled_has_no_coalescing():
    policy = replace(EVERYTHING, disabled=frozenset({2, 3}))
    for command in (CoalVqSet(2, SOME), CoalVqGet(3)):
        with pytest.raises(GuestError, match=r"coalescing\.queue.*not enabled"):
            policy.judge(command, STATE)
    assert policy.judge(CoalVqGet(4), STATE) is Route.DEVICE


@pytest.mark.parametrize("offload", [Feature.GUEST_CSUM, Feature.GUEST_TSO4, Feature.GUEST_USO6])
def test_an_offload_that_was_not_negotiated_cannot_be_switched_on(offload):
    policy = replace(EVERYTHING, features=EVERYTHING.features & ~offload.mask)
    assert policy.judge(GuestOffloadsSet(Feature.GUEST_ECN.mask), STATE) is Route.DEVICE
    with pytest.raises(GuestError, match=offload.name):
        policy.judge(GuestOffloadsSet(offload.mask | Feature.GUEST_ECN.mask), STATE)


@pytest.mark.parametrize(
    ("kind", "queue", "needed"),
    [
        (StatsType.RX_CSUM, 0, (Feature.GUEST_CSUM,)),
        (StatsType.TX_CSUM, 1, (Feature.CSUM,)),
        (StatsType.RX_GSO, 0, (Feature.GUEST_TSO4, Feature.GUEST_TSO6)),
        (StatsType.TX_GSO, 1, (Feature.HOST_TSO4, Feature.HOST_TSO6, Feature.HOST_USO)),
    ],
)
def test_statistics_of_a_feature_need_one_of_its_features(kind, queue, needed):
    none = EVERYTHING.features & ~mask_of(*needed)
    with pytest.raises(GuestError, match=r"stats\.types"):
        replace(EVERYTHING, features=none).judge(stats((queue, kind.mask)), STATE)
    for feature in needed:
        policy = replace(EVERYTHING, features=none | feature.mask)
        assert policy.judge(stats((queue, kind.mask)), STATE) is Route.DEVICE


def test_the_control_queues_statistics_are_refused_where_the_device_counts_it_under_another_index():
    policy = replace(EVERYTHING, max_pairs=1, device_cvq=8)
    with pytest.raises(GuestError, match=r"stats\.queue.*8"):
        policy.judge(stats((2, StatsType.CVQ.mask)), STATE)
    same = replace(EVERYTHING, device_cvq=8)
    assert same.judge(stats((8, StatsType.CVQ.mask)), STATE) is Route.DEVICE


def test_an_announcement_that_the_daemon_asked_for_is_acknowledged_by_the_daemon():
    own = Policy(mask_of(*Feature), max_pairs=1, announces=True)
    assert own.judge(AnnounceAck(), STATE._replace(announce=True)) is Route.LOCAL
    with pytest.raises(GuestError, match=r"announce\.not_asked"):
        own.judge(AnnounceAck(), STATE)


def test_a_device_that_is_promiscuous_for_its_tables_is_not_asked_about_the_mode():
    widened = STATE._replace(widened=True)
    for on in (0, 1):
        assert EVERYTHING.judge(RxModeSet(RxMode.PROMISC, on), widened) is Route.LOCAL
    assert EVERYTHING.judge(RxModeSet(RxMode.ALLMULTI, 0), widened) is Route.DEVICE


def test_only_commands_whose_judgement_depends_on_others_wait():
    assert {command.name for command in ALL if Policy.waits(command)} == {
        "announce.ack",
        "mq.vq_pairs_set",
        "mq.rss_config",
        "mq.hash_config",
        "notf_coal.tx_set",
        "notf_coal.rx_set",
        "notf_coal.vq_set",
        "notf_coal.vq_get",
    }
