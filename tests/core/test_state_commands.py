from __future__ import annotations

import pytest
from hypothesis import given

from cvqd.core.restore import replay, replay_running
from cvqd.core.state_commands import carried, folded, state_commands
from cvqd.core.tracked import TrackedState
from cvqd.errors import SnapshotError
from cvqd.wire.net_control import HashConfig, RssConfig, VlanAdd, VqPairsSet
from cvqd.wire.snapshot import decode, encode
from cvqd.wire.virtio import Feature, mask_of
from kit.snapshot_examples import MAC, RSS, largest_state, snapshot_of, states


@given(states)
def test_a_state_written_down_is_read_back(state):
    assert folded(state_commands(state), announce=state.announce) == state
    assert carried(decode(encode(snapshot_of(state)))) == state


@given(states)
def test_a_state_that_was_read_back_is_replayed_as_before(state):
    again = carried(decode(encode(snapshot_of(state))))
    everything = mask_of(*Feature)
    assert replay(again, everything) == replay(state, everything)
    assert replay_running(again, everything) == replay_running(state, everything)


def test_steering_of_every_kind_keeps_its_number_of_pairs():
    reset = TrackedState(MAC)
    for done in (
        [VqPairsSet(3)],
        [RSS],
        [RSS, HashConfig(1, b"k")],
        [HashConfig(1, b"k"), VqPairsSet(4)],
        [VqPairsSet(4), RSS],
    ):
        state = reset
        for command in done:
            state = state.after(command)
        again = folded(state_commands(state), announce=False)
        assert (again.pairs, again.hashing) == (state.pairs, state.hashing)


def test_the_largest_state_is_read_back():
    state = largest_state()
    assert isinstance(state.hashing, RssConfig)
    assert carried(decode(encode(snapshot_of(state)))) == state


def test_how_one_device_gives_what_the_tables_ask_for_is_not_carried():
    state = TrackedState(MAC, unicast=(MAC,), widened=True)
    assert carried(snapshot_of(state)) == state._replace(widened=False)


def test_commands_that_lead_elsewhere_than_to_the_digest_are_refused():
    with pytest.raises(SnapshotError, match=f"not to {'0' * 16}"):
        carried(snapshot_of(TrackedState(MAC), digest="0" * 16))


def test_a_vlan_that_no_guest_can_add_is_refused():
    with pytest.raises(SnapshotError, match="VLAN 4096"):
        folded([VlanAdd(4096)], announce=False)
