"""A guest's commands, a snapshot, another device: it has to let in the same frames and steer them alike.

Both devices are the simulator's control part, whose judgement is its own.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cvqd.core.compatibility import usable
from cvqd.core.features import offer
from cvqd.core.lifecycle import DeviceFacts
from cvqd.core.policy import HashLimits, Policy
from cvqd.core.restore import replay, replay_running
from cvqd.core.tracked import TrackedState
from cvqd.errors import GuestError
from cvqd.simulator.control import HASH_TYPES, MAX_KEY, MAX_TABLE, Control
from cvqd.simulator.filter import refusal
from cvqd.simulator.spec import SimulatorSpec
from cvqd.wire.net_control import OK, Command, MacAddrSet, MacTableSet, RxMode, RxModeSet, VlanAdd
from cvqd.wire.snapshot import decode, encode
from cvqd.wire.vhost_vdpa import Backend, IovaRange
from cvqd.wire.virtio import REQUIRES, Feature
from kit.rig import BROADCAST, frame
from kit.snapshot_examples import commands as any_commands
from kit.snapshot_examples import snapshot_of

SPEC = SimulatorSpec(max_queue_pairs=8)
FACTS = DeviceFacts(
    features=SPEC.offered_features,
    backend_features=Backend.SUSPEND.mask,
    vring_num=256,
    smallest_ring=256,
    vqs=SPEC.queue_count,
    group_count=2,
    address_spaces=2,
    iova=IovaRange(0, (1 << 64) - 1),
    config=Control(SPEC).config,
    max_pairs=8,
)
OFFER = offer(FACTS.features, FACTS.max_pairs, FACTS.vqs)
#: without a feature that is no driver's to take
OFFERED = OFFER.features & SPEC.offered_features

STATIONS = [bytes.fromhex(f"5254000000{n:02x}") for n in range(6)]
GROUPS = [bytes.fromhex(f"333300000{n:03x}") for n in range(4)]
VIDS = [0, 1, 5, 4095]
FRAMES = [
    frame(destination, vlan=vid) for destination in (*STATIONS, *GROUPS, BROADCAST) for vid in (None, *VIDS)
]

#: of few addresses and VLANs, so that the frames above meet them
commands: st.SearchStrategy[Command] = st.one_of(
    any_commands,
    st.builds(MacAddrSet, st.sampled_from(STATIONS)),
    st.builds(
        MacTableSet,
        st.lists(st.sampled_from(STATIONS), max_size=3).map(tuple),
        st.lists(st.sampled_from(GROUPS), max_size=3).map(tuple),
    ),
    st.builds(RxModeSet, st.sampled_from(RxMode), st.integers(0, 1)),
    st.builds(VlanAdd, st.sampled_from(VIDS)),
)


def negotiable(word: int) -> int:
    """Features without those that need one that is not there."""
    while True:
        lacking = sum(
            feature.mask
            for feature, needs in REQUIRES.items()
            if word & feature.mask and not any(word & need.mask for need in needs)
        )
        if not lacking:
            return word
        word &= ~lacking


features = st.sets(
    st.sampled_from([f for f in Feature if OFFERED & f.mask and f is not Feature.VERSION_1])
).map(lambda without: negotiable(OFFERED & ~sum(feature.mask for feature in without)))


def hashing(control: Control) -> tuple[int, int] | None:
    """Types and key of the hash in force."""
    hasher = control.state.hasher
    return None if hasher is None else (hasher._types, hasher._toeplitz._key)


def obeyed(control: Control, command: Command) -> None:
    assert control.execute(command.encode()) == OK, command


@settings(max_examples=300, deadline=None)
@given(features, st.lists(commands, max_size=25))
def test_a_state_that_was_carried_lets_in_the_same_frames_and_steers_them_alike(word, said):
    here = Control(SPEC)
    here.negotiated(word)
    state = TrackedState.after_reset(SPEC.mac, word)
    policy = Policy(
        word,
        8 if word & (Feature.MQ.mask | Feature.RSS.mask) else 1,
        hashing=HashLimits(MAX_KEY, MAX_TABLE, HASH_TYPES),
    )
    for command in said:
        try:
            policy.judge(command, state)
        except GuestError:
            continue
        obeyed(here, command)
        state = state.after(command)

    snapshot = snapshot_of(state, features=word, config=here.config)
    carried = usable(decode(encode(snapshot)), OFFER, FACTS)
    assert carried.digest() == state.digest()

    running = False
    there = Control(SPEC, enabled=lambda _: running)
    there.negotiated(word)
    for command in replay(carried, word):
        obeyed(there, command)
    running = True
    for command in replay_running(carried, word):
        obeyed(there, command)

    assert [refusal(there.state, sent) for sent in FRAMES] == [refusal(here.state, sent) for sent in FRAMES]
    assert [there.state.coalescing(queue) for queue in range(16)] == [
        here.state.coalescing(queue) for queue in range(16)
    ]
    assert hashing(there) == hashing(here)
    assert replace(there.state, hasher=None, queue_coalescing={}) == replace(
        here.state, hasher=None, queue_coalescing={}
    )
    assert there.config == here.config
