"""The receive filter as a table: modes, tables, tags against destinations."""

from __future__ import annotations

import pytest

from cvqd.simulator.control_state import ControlState
from cvqd.simulator.filter import Drop, refusal
from cvqd.wire.net_control import RxMode
from cvqd.wire.virtio import Feature, mask_of

OWN = bytes.fromhex("525400aabbcc")
#: differs from OWN behind the zero byte at which a C string would end
NEAR = bytes.fromhex("525400aabbcd")
LISTED = bytes.fromhex("5254deadbeef")
STRANGER = bytes.fromhex("5254cafecafe")
GROUP = bytes.fromhex("01005e000001")
OTHER_GROUP = bytes.fromhex("333300000001")
BROADCAST = b"\xff" * 6

P, AM, AU, NM, NU, NB = RxMode


def frame(destination: bytes, vid: int | None = None, priority: int = 0) -> bytes:
    tag = b"" if vid is None else b"\x81\x00" + (priority << 13 | vid).to_bytes(2, "big")
    return destination + STRANGER + tag + b"\x88\xb5" + bytes(46)


def state(*modes: RxMode, vlans: set[int] | None = None) -> ControlState:
    return ControlState(
        mac=OWN, modes=set(modes), unicast=frozenset({LISTED}), multicast=frozenset({GROUP}), vlans=vlans
    )


ADDRESSES = {
    "own": OWN,
    "near": NEAR,
    "listed": LISTED,
    "stranger": STRANGER,
    "group": GROUP,
    "other group": OTHER_GROUP,
    "broadcast": BROADCAST,
}

# virtio 1.3 §5.1.6.5.1; what each set of modes lets in
TABLE = {
    (): {"own", "listed", "group", "broadcast"},
    (P,): set(ADDRESSES),
    (P, NM, NU, NB): set(ADDRESSES),
    (AM,): {"own", "listed", "group", "other group", "broadcast"},
    (AU,): {"own", "near", "listed", "stranger", "group", "broadcast"},
    (AM, AU): set(ADDRESSES),
    (NM,): {"own", "listed", "broadcast"},
    (NM, AM): {"own", "listed", "broadcast"},
    (NU,): {"group", "broadcast"},
    (NU, AU): {"group", "broadcast"},
    (NB,): {"own", "listed", "group"},
    (NB, AM): {"own", "listed", "group", "other group"},
    (NM, NU, NB): set(),
}


@pytest.mark.parametrize("modes", TABLE, ids=lambda modes: "+".join(mode.name for mode in modes) or "none")
def test_modes_let_in_exactly_what_the_specification_says(modes):
    let_in = {name for name, address in ADDRESSES.items() if refusal(state(*modes), frame(address)) is None}
    assert let_in == TABLE[modes]


@pytest.mark.parametrize(
    ("address", "reason"),
    [(STRANGER, Drop.UNICAST), (OTHER_GROUP, Drop.MULTICAST)],
)
def test_a_drop_has_its_reason(address, reason):
    assert refusal(state(), frame(address)) is reason


def test_broadcast_is_not_counted_as_multicast():
    assert refusal(state(NB), frame(BROADCAST)) is Drop.BROADCAST


@pytest.mark.parametrize(
    ("vlans", "vid", "let_in"),
    [
        (None, 7, True),
        (set(), 7, False),
        ({7}, 7, True),
        ({7}, 8, False),
        ({7}, None, True),
        ({0}, 0, True),
        ({4095}, 4095, True),
    ],
)
def test_tags_are_held_against_the_table_if_there_is_one(vlans, vid, let_in):
    assert (refusal(state(vlans=vlans), frame(OWN, vid)) is None) is let_in


def test_a_tag_s_priority_is_no_part_of_its_id():
    assert refusal(state(vlans={7}), frame(OWN, 7, priority=5)) is None
    assert refusal(state(vlans={8}), frame(OWN, 7, priority=5)) is Drop.VLAN


def test_a_tagged_frame_to_somebody_else_is_still_dropped():
    assert refusal(state(vlans={7}), frame(STRANGER, 7)) is Drop.UNICAST


def test_promiscuous_skips_the_vlan_table():
    assert refusal(state(P, vlans=set()), frame(STRANGER, 7)) is None


@pytest.mark.parametrize("length", range(14))
def test_a_frame_without_a_whole_header_is_a_runt(length):
    assert refusal(state(P), frame(OWN)[:length]) is Drop.RUNT


@pytest.mark.parametrize("length", [14, 15])
def test_a_frame_that_ends_in_its_tag_has_no_vlan(length):
    assert refusal(state(vlans={0, 7}), frame(OWN, 7)[:length]) is Drop.VLAN


def test_after_reset_a_driver_without_ctrl_rx_gets_its_own_and_all_group_addresses():
    reset = ControlState.after_reset(OWN, mask_of(Feature.CTRL_VQ))
    let_in = {name for name, address in ADDRESSES.items() if refusal(reset, frame(address)) is None}
    assert let_in == {"own", "group", "other group", "broadcast"}
    assert refusal(reset, frame(OWN, 9)) is None


def test_after_reset_a_driver_with_ctrl_rx_gets_everything_until_it_asks_for_less():
    reset = ControlState.after_reset(OWN, mask_of(Feature.CTRL_VQ, Feature.CTRL_RX, Feature.CTRL_VLAN))
    assert all(refusal(reset, frame(address, 5)) is None for address in ADDRESSES.values())
    reset.modes.discard(P)
    assert refusal(reset, frame(OWN, 5)) is Drop.VLAN
    assert refusal(reset, frame(OTHER_GROUP)) is Drop.MULTICAST
