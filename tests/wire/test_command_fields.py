from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvqd.wire.command_fields import command_fields, fields_of, result_fields
from cvqd.wire.control_stats import StatsBlock, StatsType
from cvqd.wire.net_control import (
    COMMANDS,
    Coalescing,
    CoalVqGet,
    CoalVqSet,
    MacTableSet,
    RssConfig,
    StatsGet,
    StatsQuery,
    StatsRequest,
    Unknown,
    VlanAdd,
)

MAC = bytes.fromhex("525400aa0001")


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (VlanAdd(5), {"vlan": 5}),
        (MacTableSet((MAC,), ()), {"unicast": ["52:54:00:aa:00:01"], "multicast": []}),
        (CoalVqSet(3, Coalescing(8, 50)), {"queue": 3, "packets": 8, "usecs": 50}),
        (
            RssConfig(0b11, 1, 2, (0, 1), 4, b"secret"),
            {
                "hash_types": ["ipv4", "tcpv4"],
                "table": [0, 1],
                "unclassified": 2,
                "max_tx_vq": 4,
                "key_bytes": 6,
            },
        ),
        (StatsGet((StatsRequest(8, 1 << 32),)), {"requests": [{"queue": 8, "types": ["cvq"]}]}),
        (Unknown(12, 7), {"class": 12, "command": 7}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_fields_are_named_values(command, named):
    assert command_fields(command) == named
    assert fields_of(command.encode()) == named


@pytest.mark.parametrize("command", COMMANDS, ids=[command.name for command in COMMANDS])
def test_every_field_of_every_command_is_shown(command):
    """Keys of hashes are not; what is reserved says nothing."""
    silent = {"reserved", "mode", "mask", "key"}
    names = {entry.name for entry in fields(command)} - silent
    renamed = {"vid": {"vlan"}, "values": {"packets", "usecs"}}
    wanted = set().union(*(renamed.get(name, {name}) for name in names))
    assert wanted <= set(command_fields(command))


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_have_fields_that_json_can_hold(data: bytes, result: bytes):
    json.dumps([fields_of(data), result_fields(data, result)])


def test_results_are_told_too():
    assert result_fields(CoalVqGet(0).encode(), Coalescing(8, 50).encode()) == {"packets": 8, "usecs": 50}
    assert result_fields(StatsQuery().encode(), (1 << 32).to_bytes(8, "little")) == {"types": ["cvq"]}
    block = StatsBlock(StatsType.CVQ, 8, (5, 4)).encode()
    assert result_fields(StatsGet((StatsRequest(8, 1 << 32),)).encode(), block) == {
        "blocks": [{"queue": 8, "type": "cvq", "command_num": 5, "ok_num": 4}]
    }
    assert result_fields(VlanAdd(5).encode(), b"") == {}
    assert result_fields(StatsGet((StatsRequest(8, 1 << 32),)).encode(), b"") == {}
