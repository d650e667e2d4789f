from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvqd.errors import GuestError
from cvqd.wire.net_control import (
    NAMES,
    AnnounceAck,
    MacAddrSet,
    MacTableSet,
    RxMode,
    RxModeSet,
    Unknown,
    VlanAdd,
    VlanDel,
    VqPairsSet,
    decode,
)

MAC = bytes.fromhex("525400000001")

#: bytes as Linux sends them (drivers/net/virtio_net.c) and the value they are
WIRE = [
    ("000001", RxModeSet(RxMode.PROMISC, 1), "rx.promisc"),
    ("000500", RxModeSet(RxMode.NOBCAST, 0), "rx.nobcast"),
    ("0101525400000001", MacAddrSet(MAC), "mac.addr_set"),
    ("01000000000000000000", MacTableSet((), ()), "mac.table_set"),
    (
        "0100010000005254000000010200000001005e000001333300000001",
        MacTableSet((MAC,), (bytes.fromhex("01005e000001"), bytes.fromhex("333300000001"))),
        "mac.table_set",
    ),
    ("0200ff0f", VlanAdd(4095), "vlan.add"),
    ("02010500", VlanDel(5), "vlan.del"),
    ("0300", AnnounceAck(), "announce.ack"),
    ("04000400", VqPairsSet(4), "mq.vq_pairs_set"),
    ("0900", Unknown(9, 0), "rss_ctx.0"),
    ("0c07", Unknown(12, 7), "class_12.7"),
]


@pytest.mark.parametrize(("data", "value", "name"), WIRE, ids=[name for _, _, name in WIRE])
def test_bytes_and_values_agree_both_ways(data, value, name):
    assert decode(bytes.fromhex(data)) == value
    assert value.encode().hex() == data
    assert value.name == name


@pytest.mark.parametrize("data", [b"", b"\1"])
def test_a_header_cut_short_is_refused(data):
    with pytest.raises(GuestError, match=r"command\.header"):
        decode(data)


@pytest.mark.parametrize("data", [data for data, value, _ in WIRE if not isinstance(value, Unknown)])
def test_every_other_length_is_refused(data):
    whole = bytes.fromhex(data)
    for wrong in [whole + b"\0", *(whole[:length] for length in range(2, len(whole)))]:
        with pytest.raises(GuestError, match=r"command\.length"):
            decode(wrong)


@pytest.mark.parametrize("count", [1, 0x2AAAAAAB, 0xFFFFFFFF])
def test_a_table_that_claims_more_than_it_has_is_refused(count):
    lying = bytes((1, 0)) + count.to_bytes(4, "little") + MAC[:5]
    with pytest.raises(GuestError, match=f"inside a list of {count}"):
        decode(lying)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_command_that_encodes_to_them_or_the_guests_mistake(data):
    try:
        command = decode(data)
    except GuestError as error:
        found = error.reason
    else:
        found = (
            "whole" if command.encode() == (data[:2] if isinstance(command, Unknown) else data) else "lost"
        )
    assert found in {"command.header", "command.length", "whole"}


def test_every_known_command_has_a_name_of_its_own():
    assert len(set(NAMES)) == len(NAMES)
    assert {name for data, value, name in WIRE if not isinstance(value, Unknown)} <= set(NAMES)
