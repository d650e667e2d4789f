"""Each rule of virtio 1.3 §5.1.6.5 that a device must enforce, by its paragraph."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cvqd.core.policy import Policy, Route
from cvqd.errors import GuestError
from cvqd.wire.control_stats import StatsBlock, parse_blocks
from cvqd.wire.net_control import (
    COMMANDS,
    AnnounceAck,
    CoalVqGet,
    CoalVqSet,
    GuestOffloadsSet,
    RxMode,
    RxModeSet,
    StatsType,
)
from cvqd.wire.virtio import Feature, mask_of
from kit.command_examples import ALL, EVERYTHING, REFUSED, SOME, STATE, stats


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
    REFUSED,
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


def test_the_control_queue_has_the_guests_index_for_the_guest_and_the_devices_for_the_device():
    policy = replace(EVERYTHING, max_pairs=1, device_cvq=8)
    asked = stats((2, StatsType.CVQ.mask), (0, StatsType.RX_SPEED.mask))
    assert policy.judge(asked, STATE) is Route.DEVICE
    sent = policy.for_device(asked, asked.encode())
    assert sent == stats((8, StatsType.CVQ.mask), (0, StatsType.RX_SPEED.mask)).encode()
    blocks = [StatsBlock(StatsType.CVQ, 8, (5, 4)), StatsBlock(StatsType.RX_SPEED, 0, (8, 8))]
    answer = b"".join(block.encode() for block in blocks)
    assert parse_blocks(policy.for_guest(asked, answer)) == [blocks[0]._replace(queue=2), blocks[1]]
    for cut in range(len(answer)):
        assert len(policy.for_guest(asked, answer[:cut])) == cut
    same = replace(EVERYTHING, device_cvq=8)
    assert same.for_device(stats((8, StatsType.CVQ.mask)), b"as it was") == b"as it was"
    assert policy.for_guest(CoalVqGet(0), b"12345678") == b"12345678"


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
