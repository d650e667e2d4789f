"""Each rule of virtio 1.3 §5.1.6.5 that a device must enforce, by its paragraph."""

from __future__ import annotations

import pytest

from cvqd.core.policy import Policy, Route
from cvqd.core.tracked import TrackedState
from cvqd.errors import GuestError
from cvqd.wire.net_control import (
    AnnounceAck,
    MacAddrSet,
    MacTableSet,
    RxMode,
    RxModeSet,
    Unknown,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.virtio import Feature, mask_of

MAC = bytes.fromhex("525400000001")
STATE = TrackedState(MAC)
EVERYTHING = Policy(mask_of(*Feature), max_pairs=4)

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
]


@pytest.mark.parametrize("command", ALL, ids=str)
def test_a_proper_command_goes_to_the_device(command):
    assert EVERYTHING.judge(command, STATE) is Route.DEVICE


@pytest.mark.parametrize("command", ALL, ids=str)
def test_a_command_without_its_feature_is_refused(command):
    without = Policy(mask_of(*Feature) & ~command.feature.mask, max_pairs=4)
    with pytest.raises(GuestError, match=r"command\.not_negotiated.*" + command.feature.name):
        without.judge(command, STATE)


@pytest.mark.parametrize(
    ("command", "rule"),
    [
        (Unknown(9, 0), "command.unknown"),
        (Unknown(4, 3), "command.unknown"),
        (RxModeSet(RxMode.PROMISC, 2), "rx.value"),  # §5.1.6.5.1: the data is 0 or 1
        (MacAddrSet(bytes(6)), "mac.not_unicast"),
        (MacAddrSet(bytes.fromhex("01005e000001")), "mac.not_unicast"),
        (VlanAdd(4096), "vlan.id"),  # IEEE 802.1Q: 12 bits
        (VlanDel(65535), "vlan.id"),
        (VqPairsSet(0), "mq.pairs"),  # §5.1.6.5.5.1: 1 to max_virtqueue_pairs
        (VqPairsSet(5), "mq.pairs"),
    ],
    ids=str,
)
def test_a_value_that_the_device_must_refuse_is_refused_by_name(command, rule):
    with pytest.raises(GuestError) as caught:
        EVERYTHING.judge(command, STATE)
    assert caught.value.reason == rule


def test_an_announcement_that_the_daemon_asked_for_is_acknowledged_by_the_daemon():
    own = Policy(mask_of(*Feature), max_pairs=1, announces=True)
    assert own.judge(AnnounceAck(), STATE._replace(announce=True)) is Route.LOCAL
    with pytest.raises(GuestError, match=r"announce\.not_asked"):
        own.judge(AnnounceAck(), STATE)


def test_only_commands_whose_judgement_depends_on_others_wait():
    assert [type(command) for command in ALL if Policy.waits(command)] == [
        AnnounceAck,
        VqPairsSet,
        VqPairsSet,
    ]
