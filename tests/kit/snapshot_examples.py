"""Snapshots for tests: drawn by hypothesis, and one with everything in it."""

from __future__ import annotations

from hypothesis import strategies as st

from cvqd.core.coalescing import CoalescingTable
from cvqd.core.state_commands import state_commands
from cvqd.core.tracked import TrackedState
from cvqd.wire.net_config import NetConfig
from cvqd.wire.net_control import (
    GUEST_OFFLOADS,
    Coalescing,
    CoalRxSet,
    CoalTxSet,
    CoalVqSet,
    Command,
    GuestOffloadsSet,
    HashConfig,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxMode,
    RxModeSet,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.snapshot import RingBase, Snapshot

MAC = bytes.fromhex("525400000001")
RSS = RssConfig(7, 1, 0, (0, 1), 2, b"k" * 40)

_macs = st.binary(min_size=6, max_size=6)
_unicast = _macs.map(lambda mac: bytes((mac[0] & 0xFE | 2,)) + mac[1:])
_tables = st.lists(_macs, max_size=4).map(tuple)
_values = st.builds(Coalescing, st.integers(0, 2), st.integers(0, 2))

#: commands that a device with 8 pairs takes
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(MacAddrSet, _unicast),
    st.builds(MacTableSet, _tables, _tables),
    st.builds(RxModeSet, st.sampled_from(RxMode), st.integers(0, 1)),
    st.builds(VlanAdd, st.integers(0, 4095)),
    st.builds(VlanDel, st.integers(0, 4095)),
    st.builds(VqPairsSet, st.integers(1, 8)),
    st.builds(
        RssConfig,
        st.integers(0, 63),
        st.just(3),
        st.integers(0, 7),
        st.tuples(*[st.integers(0, 7)] * 4),
        st.integers(1, 8),
        st.binary(min_size=40, max_size=40),
    ),
    st.builds(HashConfig, st.integers(0, 63), st.binary(min_size=40, max_size=40)),
    st.builds(GuestOffloadsSet, st.sampled_from([0, 1 << 1, 1 << 1 | 1 << 7])),
    st.builds(CoalTxSet, _values),
    st.builds(CoalRxSet, _values),
    st.builds(CoalVqSet, st.integers(0, 15), _values),
)


def fold(done: list[Command], state: TrackedState) -> TrackedState:
    """State after commands."""
    for command in done:
        state = state.after(command)
    return state


def snapshot_of(state: TrackedState, **parts: object) -> Snapshot:
    """A snapshot of this control state; ``parts`` are other fields."""
    fields: dict[str, object] = {
        "origin": "simulator simulator",
        "features": (1 << 64) - 1,
        "max_pairs": 8,
        "config": NetConfig(state.mac).encode(),
        "commands": state_commands(state),
        "announce": state.announce,
        "digest": state.digest(),
        **parts,
    }
    return Snapshot(**fields)  # type: ignore[arg-type]


states = st.builds(
    lambda done, announce: fold(done, TrackedState(MAC))._replace(announce=announce),
    st.lists(commands, max_size=20),
    st.booleans(),
)

_bases = st.lists(
    st.builds(
        RingBase,
        st.integers(0, 0xFFFF),
        st.integers(1, 1 << 15),
        st.one_of(st.none(), st.integers(0, (1 << 32) - 1)),
    ),
    max_size=5,
    unique_by=lambda ring: ring.index,
).map(lambda rings: tuple(sorted(rings, key=lambda ring: ring.index)))

snapshots = st.builds(
    lambda state, features, pairs, config, rings, origin: snapshot_of(
        state, features=features, max_pairs=pairs, config=config, rings=rings, origin=origin
    ),
    states,
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 0xFFFF),
    st.binary(max_size=64),
    _bases,
    st.sampled_from(["", "simulator simulator", "vhost-vdpa /dev/vhost-vdpa-0", "naïve"]),
)


def largest_state(pairs: int = 8, table: int = 128, entries: int = 5000) -> TrackedState:
    """Everything set: all VLANs but one, tables as long as a command of 64 KiB, every queue by itself."""
    addresses = [(0x5254_0000_0000 + i).to_bytes(6, "big") for i in range(entries)]
    groups = [(0x3333_0000_0000 + i).to_bytes(6, "big") for i in range(entries)]
    return TrackedState(
        bytes.fromhex("5254000000aa"),
        rx=0b111110,
        unicast=tuple(addresses),
        multicast=tuple(groups),
        vlans=(1 << 4095) - 2,
        pairs=pairs,
        announce=True,
        hashing=RssConfig(63, table - 1, 1, tuple(i % pairs for i in range(table)), pairs, b"k" * 40),
        offloads=GUEST_OFFLOADS & (1 << 1 | 1 << 7 | 1 << 8),
        coalescing=CoalescingTable(
            Coalescing(1, 2),
            Coalescing(3, 4),
            tuple((queue, Coalescing(queue + 5, 9)) for queue in range(2 * pairs)),
        ),
    )
