"""A session and whole front-ends: the orders of real ones, and any messages at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvqd.core.session import effects
from cvqd.core.session.session import Session
from cvqd.errors import FrontendError
from cvqd.testing.sequences import ORDERS
from cvqd.testing.sequences import Sequence as Steps
from cvqd.testing.steps import ANSWERED, GuestSetup, RingSetup, Step
from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_user import HEADER, PROTOCOL_FEATURES_SERVED, DescriptorKind
from cvqd.wire.virtio import Status
from kit.session_messages import (
    EVENTFD,
    FEATURES,
    FILE,
    OFFER,
    PIPE,
    SOCKET,
    USER,
    FakeFd,
    message,
    negotiated,
    region,
    say,
)


def guest(kind: DescriptorKind = EVENTFD) -> tuple[GuestSetup, dict[int, FakeFd]]:
    """A set-up whose descriptor numbers stand for fakes."""
    fakes = {100: FakeFd(FILE), 200: FakeFd(PIPE)}
    rings = []
    for index in range(5):
        fakes[10 + index], fakes[20 + index] = FakeFd(), FakeFd(kind)
        base = USER + 0x4000 * index
        rings.append(
            RingSetup(index, 64, RingAddresses(base, base + 0x1000, base + 0x2000), 10 + index, 20 + index)
        )
    return GuestSetup(FEATURES, ((region(), 100),), tuple(rings), channel=200), fakes


def play(
    session: Session, steps: Steps, fakes: dict[int, FakeFd]
) -> list[tuple[Step, effects.Effect | None]]:
    """Every step through the session; each is answered if and only if the front-end waits."""
    story: list[tuple[Step, effects.Effect | None]] = []
    reply: bytes | None = None
    while True:
        try:
            step = steps.send(reply)
        except StopIteration:
            return story
        copies = [FakeFd(fakes[number].kind, fakes[number].inode) for number in step.descriptors]
        said = message(step.request, step.payload, *copies, need_reply=step.need_reply)
        effect = session.receive(said)
        result: effects.Result = None
        if isinstance(effect, effects.ReadConfig):
            result = bytes(effect.size)
        if isinstance(effect, effects.RingStopped):
            result = 5
        reply = session.reply(said, result)
        assert (reply is not None) is step.answered, step
        if reply is not None:
            reply = reply[12:]
            if step.need_reply and step.request not in ANSWERED:
                assert reply == bytes(8), step
        story.append((step, effect))


@pytest.mark.parametrize("name", ORDERS)
def test_each_front_ends_order_brings_all_its_rings_up_and_down_twice(name: str):
    setup, fakes = guest(SOCKET if name == "uml" else EVENTFD)
    session = Session(OFFER)
    expected = set(range(4 if name in ("qemu-net", "cloud-hypervisor") else 5))
    order = ORDERS[name]
    play(session, order.connect(setup), fakes)
    assert not any(session.ring_complete(index) for index in session.rings)
    for _ in range(2):
        play(session, order.start(setup), fakes)
        running = {
            index for index, ring in session.rings.items() if ring.enabled and session.ring_complete(index)
        }
        assert running == expected
        assert session.features == FEATURES
        assert session.guest_ring(3) == RingAddresses(0x1000_C000, 0x1000_D000, 0x1000_E000)
        if name.startswith("qemu"):
            assert session.status & Status.DRIVER_OK
        story = play(session, order.stop(setup), fakes)
        assert not any(ring.enabled and session.ring_complete(index) for index, ring in session.rings.items())
        stopped = [effect for _, effect in story if isinstance(effect, effects.RingStopped)]
        assert bool(stopped) is (name not in ("uml", "libkrun"))
    session.close()


def test_uml_maps_its_memory_once_for_two_lives():
    setup, fakes = guest(SOCKET)
    session = Session(OFFER)
    play(session, ORDERS["uml"].connect(setup), fakes)
    added = []
    for _ in range(2):
        story = play(session, ORDERS["uml"].start(setup), fakes)
        added += [len(effect.added) for _, effect in story if isinstance(effect, effects.MemoryChanged)]
        play(session, ORDERS["uml"].stop(setup), fakes)
    assert added == [1, 0]


def descriptors() -> st.SearchStrategy[list[DescriptorKind]]:
    return st.lists(st.sampled_from(DescriptorKind), max_size=3)


def plausible() -> st.SearchStrategy[bytes]:
    small = st.integers(0, 8) | st.integers(0, (1 << 64) - 1)
    words = st.lists(small, max_size=12).map(
        lambda found: b"".join(word.to_bytes(8, "little") for word in found)
    )
    return words | st.binary(max_size=100)


@settings(max_examples=300)
@given(
    st.sampled_from([0, PROTOCOL_FEATURES_SERVED]),
    st.lists(
        st.tuples(
            st.integers(0, 46) | st.integers(0, 0xFFFF_FFFF), plausible(), descriptors(), st.booleans()
        ),
        max_size=20,
    ),
)
def test_any_messages_are_taken_or_blamed_on_the_front_end_and_nothing_leaks(
    word: int, said: list[tuple[int, bytes, list[DescriptorKind], bool]]
):
    session = negotiated(word)
    fds: list[FakeFd] = []
    for request, payload, kinds, need_reply in said:
        fresh = [FakeFd(kind) for kind in kinds]
        fds += fresh
        try:
            reply = say(session, message(request, payload, *fresh, need_reply=need_reply))
        except FrontendError:
            break
        if reply is not None:
            assert HEADER.unpack(reply[:12]) == (request, 5, len(reply) - 12)
    held = {id(entry.descriptor) for entry in session.memory} | {id(session.backend_channel)}
    held |= {id(fd) for ring in session.rings.values() for fd in (ring.kick, ring.call, ring.err)}
    for fd in fds:
        assert fd.closed is (id(fd) not in held)
    session.close()
    assert all(fd.closed for fd in fds)
