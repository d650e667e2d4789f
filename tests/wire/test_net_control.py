from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvqd.errors import GuestError
from cvqd.wire.control_stats import CVQ_RESULT, PAIR_RESULT, StatsBlock, block_size, parse_blocks
from cvqd.wire.net_control import (
    NAMES,
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
    (
        "04013f0000000300010000000100020003000400056d5a56da25",
        RssConfig(0x3F, 3, 1, (0, 1, 2, 3), 4, bytes.fromhex("6d5a56da25")),
        "mq.rss_config",
    ),
    ("0402070000000000000000000000026d5a", HashConfig(7, b"\x6d\x5a"), "mq.hash_config"),
    ("05008201000000000000", GuestOffloadsSet(0x182), "guest_offloads.set"),
    ("06001000000064000000", CoalTxSet(Coalescing(16, 100)), "notf_coal.tx_set"),
    ("06011000000064000000", CoalRxSet(Coalescing(16, 100)), "notf_coal.rx_set"),
    ("0602030000001000000064000000", CoalVqSet(3, Coalescing(16, 100)), "notf_coal.vq_set"),
    ("060303000000", CoalVqGet(3), "notf_coal.vq_get"),
    ("0800", StatsQuery(), "stats.query"),
    (
        "08010000000000000000010000000000000008000000000000000000000001000000",
        StatsGet((StatsRequest(0, 1), StatsRequest(8, 1 << 32))),
        "stats.get",
    ),
    ("0900", Unknown(9, 0), "rss_ctx.0"),
    ("0700", Unknown(7, 0), "hash_tunnel.0"),
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
    # any number of requests is a command: half of this one's is another
    halves = {len(whole) - 16} if isinstance(decode(whole), StatsGet) else set()
    cuts = [whole[:length] for length in range(2, len(whole)) if length not in halves]
    # Linux 6.12 has a byte behind the key
    longer = [] if isinstance(decode(whole), RssConfig | HashConfig) else [whole + b"\0"]
    for wrong in [*longer, *cuts]:
        with pytest.raises(GuestError, match=r"command\.length"):
            decode(wrong)


@pytest.mark.parametrize(
    "data", [data for data, value, _ in WIRE if isinstance(value, RssConfig | HashConfig)]
)
def test_what_stands_behind_a_key_is_ignored(data):
    whole = bytes.fromhex(data)
    assert decode(whole + b"\xee") == decode(whole)


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
        encoded = command.encode()
        open_ended = isinstance(command, Unknown | RssConfig | HashConfig)
        found = "whole" if encoded == (data[: len(encoded)] if open_ended else data) else "lost"
    assert found in {"command.header", "command.length", "whole"}


def test_every_known_command_has_a_name_of_its_own():
    assert len(set(NAMES)) == len(NAMES)
    assert {name for data, value, name in WIRE if not isinstance(value, Unknown)} <= set(NAMES)


def test_answers_are_as_long_as_the_specification_says():
    assert {value.answer_length for _, value, _ in WIRE} - {1} == {9, 1 + 56 + 24}
    assert CoalVqGet(0).answer_length == StatsQuery().answer_length == 9
    # include/uapi/linux/virtio_net.h, compiled
    assert [block_size(kind) for kind in StatsType] == [56, 40, 40, 24, 56, 24, 56, 24, 24]
    assert StatsGet((StatsRequest(0, 2**64 - 1),)).answer_length == 1 + PAIR_RESULT + CVQ_RESULT


def test_statistics_are_read_block_by_block_and_unknown_ones_stepped_over():
    known = StatsBlock(StatsType.RX_SPEED, 4, (7, 2**64 - 1))
    assert known.encode().hex() == "03000400000018000700000000000000ffffffffffffffff"
    unknown = bytes.fromhex("3f00000000001000") + bytes(8)
    both = unknown + known.encode()
    assert parse_blocks(both) == [known]
    assert parse_blocks(both[:-1]) == []
    assert parse_blocks(bytes(8)) == [], "a block that claims no bytes ends the row"
