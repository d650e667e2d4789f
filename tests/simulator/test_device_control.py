"""The device's own judgement of commands, without rings."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvqd import simulator
from cvqd.simulator.control import HEADERLESS, Control
from cvqd.simulator.spec import SimulatorSpec
from cvqd.wire import net_config
from cvqd.wire.net_control import (
    ERR,
    OK,
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
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.virtio import Feature

MAC = bytes.fromhex("525411223344")
SPEC = SimulatorSpec(max_queue_pairs=4, mac_table_entries=100)
GOOD = [
    MacAddrSet(MAC),
    MacTableSet((MAC,), (b"\x01\x00\x5e\x00\x00\x01",)),
    MacTableSet((), ()),
    VlanAdd(4095),
    VlanDel(0),
    VqPairsSet(4),
    *(RxModeSet(mode, on) for mode in RxMode for on in (0, 1)),
    RssConfig(0x1FF, 3, 1, (0, 1, 2, 3), 4, bytes(40)),
    RssConfig(0, 127, 3, (3,) * 128, 1, b""),
    HashConfig(0x1FF, b"k"),
    HashConfig(0, b""),
    GuestOffloadsSet(Feature.GUEST_CSUM.mask | Feature.GUEST_TSO6.mask),
    CoalTxSet(Coalescing(1, 2)),
    CoalRxSet(Coalescing(1, 2)),
    CoalVqSet(7, Coalescing(1, 2), reserved=7),
    CoalVqGet(7),
    StatsQuery(),
    StatsGet((StatsRequest(8, 1 << 32),)),
]


@pytest.fixture
def control() -> Control:
    control = Control(SPEC)
    control.negotiated(SPEC.offered_features)
    return control


@pytest.mark.parametrize("command", GOOD, ids=str)
def test_a_good_command_is_obeyed(control, command):
    assert control.execute(command.encode()) == OK


@pytest.mark.parametrize("command", GOOD, ids=str)
def test_a_command_whose_feature_was_not_negotiated_changes_nothing(command):
    control = Control(SPEC)
    control.negotiated(SPEC.offered_features & ~command.feature.mask)
    before = repr(control.state)
    assert control.execute(command.encode()) == ERR
    assert repr(control.state) == before


#: a command that ends with a key may be followed by padding
EXACT = [command for command in GOOD if not isinstance(command, RssConfig | HashConfig)]


@pytest.mark.parametrize(
    "data",
    [
        *(command.encode()[:-1] for command in [*GOOD, AnnounceAck()]),
        *(command.encode() + b"\0" for command in [*EXACT, AnnounceAck()]),
    ],
    ids=bytes.hex,
)
def test_a_length_that_is_not_exact_changes_nothing(control, data):
    control.state.announce = True
    before = repr(control.state)
    assert control.execute(data) == ERR
    assert repr(control.state) == before


@pytest.mark.parametrize(
    "command",
    [
        VlanAdd(4096),
        VlanDel(65535),
        VqPairsSet(0),
        VqPairsSet(5),
        VqPairsSet(0x8000),
        RxModeSet(RxMode.PROMISC, 2),
        RxModeSet(RxMode.NOBCAST, 255),
        AnnounceAck(),
        MacTableSet((MAC,) * 20, (MAC,) * 81),
        RssConfig(0, 2, 0, (0, 0, 0), 1, b""),
        RssConfig(0, 255, 0, (0,) * 256, 1, b""),
        RssConfig(0, 0, 4, (0,), 1, b""),
        RssConfig(0, 0, 0, (4,), 1, b""),
        RssConfig(0, 0, 0, (0x8000,), 1, b""),
        RssConfig(0, 0, 0, (0,), 0, b""),
        RssConfig(0, 0, 0, (0,), 5, b""),
        RssConfig(0x200, 0, 0, (0,), 1, b"k"),
        RssConfig(1, 0, 0, (0,), 1, b""),
        RssConfig(1, 0, 0, (0,), 1, bytes(41)),
        HashConfig(0x200, b"k"),
        HashConfig(1, b""),
        HashConfig(1, bytes(41)),
        HashConfig(1, b"k", b"\1" + bytes(7)),
        GuestOffloadsSet(Feature.GUEST_UFO.mask),
        GuestOffloadsSet(Feature.CSUM.mask),
        GuestOffloadsSet(1 << 46),
        CoalVqSet(8, Coalescing()),
        CoalVqSet(9, Coalescing()),
        CoalVqGet(8),
        StatsGet((StatsRequest(9, 0),)),
    ],
    ids=str,
)
def test_a_value_out_of_range_changes_nothing(control, command):
    before = repr(control.state)
    assert control.execute(command.encode()) == ERR
    assert repr(control.state) == before


def test_commands_do_what_they_say(control):
    for command in (
        MacAddrSet(MAC),
        MacTableSet((MAC,), ()),
        VlanAdd(5),
        VlanAdd(5),
        VlanAdd(6),
        VlanDel(6),
        VlanDel(6),
        VqPairsSet(3),
        RxModeSet(RxMode.PROMISC, 0),
        RxModeSet(RxMode.NOUNI, 1),
    ):
        assert control.execute(command.encode()) == OK
    state = control.state
    assert (state.mac, state.unicast, state.multicast) == (MAC, {MAC}, frozenset())
    assert (state.vlans, state.pairs, state.modes) == ({5}, 3, {RxMode.NOUNI})


def test_the_configuration_space_shows_address_pairs_mtu_and_status(control):
    control.execute(MacAddrSet(MAC).encode())
    control.state.announce = True
    control.link_up = False
    config = net_config.decode(control.config)
    assert (config.mac, config.max_virtqueue_pairs, config.mtu) == (MAC, 4, 1500)
    assert config.status == net_config.LinkStatus.ANNOUNCE


def test_the_announcement_is_acknowledged_once(control):
    control.state.announce = True
    assert control.execute(AnnounceAck().encode()) == OK
    assert control.execute(AnnounceAck().encode()) == ERR


def test_a_reset_forgets_commands_and_restores_the_configured_address(control):
    for command in GOOD:
        control.execute(command.encode())
    control.reset()
    fresh = Control(SPEC)
    assert control.state == fresh.state
    assert control.state.mac == SPEC.mac


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", HEADERLESS),
        (b"\x01", HEADERLESS),
        (b"\x01\x01", "mac.addr_set"),
        (b"\x01\x00\x01", "mac.table_set"),
        (b"\x00\x05", "rx.nobcast"),
        (b"\x02\x00\x00\x00\x00", "vlan.add"),
        (b"\x03\x00\x00", "announce.ack"),
        (b"\x04\x00", "mq.vq_pairs_set"),
        (b"\x04\x01", "mq.rss_config"),
        (b"\x63\x07", "class_99.7"),
    ],
)
def test_every_request_has_a_name(control, data, name):
    assert control.name(data) == name


@given(st.binary(max_size=64))
def test_any_bytes_are_answered(data):
    control = Control(SPEC)
    control.negotiated(SPEC.offered_features)
    control.name(data)
    assert control.execute(data) in {OK, ERR}


def test_the_two_judges_do_not_share_code():
    modules = list(Path(simulator.__path__[0]).glob("*.py"))
    assert len(modules) > 10
    imported = {
        node.module
        for module in modules
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.ImportFrom)
    }
    assert "cvqd.wire.net_control" in imported
    assert not imported & {"cvqd.core.policy", "cvqd.core.tracked"}


def test_features_offered_without_mq_show_no_pair_count():
    spec = SimulatorSpec(max_queue_pairs=1)
    assert not spec.offered_features & Feature.MQ.mask
    assert net_config.decode(Control(spec).config).max_virtqueue_pairs == 0
