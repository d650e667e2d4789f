"""A session's rings: complete in any order, inside memory, and stopped at the device's index."""

from __future__ import annotations

import itertools

import pytest

from cvqd.core.session import effects
from cvqd.errors import FrontendError
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_user import DescriptorKind, FrontRequest, Message
from kit.session_messages import (
    EVENTFD,
    FILE,
    OFFER,
    PIPE,
    SOCKET,
    USER,
    FakeFd,
    R,
    configured,
    message,
    negotiated,
    region,
    ring_fd,
    say,
    state,
    table,
    u64,
)


def test_ring_addresses_are_translated_to_guest_physical():
    session = configured(RingAddresses(USER, USER + 0x1000, USER + 0x2000))
    assert session.ring_complete(0)
    assert session.guest_ring(0) == RingAddresses(0x1000_0000, 0x1000_1000, 0x1000_2000)


def test_a_ring_may_end_with_its_region_and_not_one_byte_later():
    used_size = 6 + 8 * 64
    session = configured(RingAddresses(USER, USER + 0x1000, USER + 0x10_0000 - used_size - 2))
    assert session.guest_ring(0).used == 0x1000_0000 + 0x10_0000 - used_size - 2
    session = configured(RingAddresses(USER, USER + 0x1000, USER + 0x10_0000 - used_size + 2))
    with pytest.raises(FrontendError, match="does not lie in one region"):
        session.guest_ring(0)


@pytest.mark.parametrize(
    "addresses",
    [
        RingAddresses(USER + 8, USER + 0x1000, USER + 0x2000),
        RingAddresses(USER, USER + 0x1001, USER + 0x2000),
        RingAddresses(USER, USER + 0x1000, USER + 0x2002),
    ],
)
def test_a_ring_that_stands_askew_is_refused(addresses: RingAddresses):
    with pytest.raises(FrontendError, match="should be aligned"):
        configured(addresses).guest_ring(0)


@pytest.mark.parametrize(
    "addresses",
    [RingAddresses(0, 0, 0), RingAddresses(USER - 16, USER, USER), RingAddresses(1 << 63, USER, USER)],
)
def test_a_ring_outside_memory_is_refused(addresses: RingAddresses):
    with pytest.raises(FrontendError, match="does not lie in one region"):
        configured(addresses).guest_ring(0)


def test_a_ring_is_complete_with_memory_num_addr_and_kick_in_any_order():
    steps = [
        table((region(), FakeFd(FILE))),
        state(R.SET_VRING_NUM, 0, 64),
        message(R.SET_VRING_ADDR, payloads.VringAddress(0, 0, RingAddresses(USER, USER, USER)).encode()),
        ring_fd(R.SET_VRING_KICK, 0, FakeFd()),
    ]
    for order in itertools.permutations(steps):
        session = negotiated()
        for done, step in enumerate(order):
            assert session.ring_complete(0) is False, done
            say(session, step)
        assert session.ring_complete(0)
        assert not session.ring_complete(1)


@pytest.mark.parametrize("num", [0, 3, 512, 0x8000_0000, 0xFFFF_FFFF])
def test_a_ring_size_is_a_power_of_two_up_to_the_devices_maximum(num: int):
    with pytest.raises(FrontendError, match="SET_VRING_NUM: size"):
        negotiated().receive(state(R.SET_VRING_NUM, 0, num))


def test_the_base_of_a_split_ring_has_sixteen_bits():
    session = negotiated()
    say(session, u64(R.SET_FEATURES, OFFER.word))
    say(session, state(R.SET_VRING_BASE, 0, 0xFFFF))
    assert session.rings[0].base == 0xFFFF
    with pytest.raises(FrontendError, match="above 0xffff"):
        session.receive(state(R.SET_VRING_BASE, 0, 0x1_0000))


@pytest.mark.parametrize(
    "said",
    [
        *(state(request, 5) for request in (R.SET_VRING_NUM, R.SET_VRING_BASE, R.GET_VRING_BASE)),
        state(R.SET_VRING_ENABLE, 0xFFFF_FFFF, 1),
        message(R.SET_VRING_ADDR, payloads.VringAddress(5, 0, RingAddresses(0, 0, 0)).encode()),
        *(ring_fd(request, 5, FakeFd()) for request in (R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ERR)),
    ],
    ids=lambda said: said.name,
)
def test_a_ring_that_is_not_there_is_refused(said: Message):
    with pytest.raises(FrontendError, match="there is no ring"):
        negotiated().receive(said)


def test_enable_is_said_once_and_takes_nothing_but_0_and_1():
    session = negotiated()
    assert session.receive(state(R.SET_VRING_ENABLE, 2, 1)) == effects.RingEnabled(2)
    assert session.receive(state(R.SET_VRING_ENABLE, 2, 1)) is None
    assert session.receive(state(R.SET_VRING_ENABLE, 2, 0)) == effects.RingEnabled(2)
    with pytest.raises(FrontendError, match="neither 0 nor 1"):
        session.receive(state(R.SET_VRING_ENABLE, 2, 2))


def test_a_replaced_descriptor_is_closed_only_after_the_device_has_the_new_one():
    session, old, new = negotiated(), FakeFd(), FakeFd()
    say(session, ring_fd(R.SET_VRING_CALL, 1, old))
    said = ring_fd(R.SET_VRING_CALL, 1, new)
    effect = session.receive(said)
    assert effect == effects.RingDescriptorChanged(1, effects.RingDescriptor.CALL, old)
    assert session.rings[1].call is new
    assert not old.closed
    session.reply(said)
    assert old.closed
    say(session, ring_fd(R.SET_VRING_CALL, 1, None))
    assert session.rings[1].call is None
    assert new.closed


@pytest.mark.parametrize(
    ("request_", "kind", "taken"),
    [
        (R.SET_VRING_KICK, EVENTFD, True),
        (R.SET_VRING_KICK, SOCKET, False),
        (R.SET_VRING_KICK, PIPE, False),
        (R.SET_VRING_KICK, FILE, False),
        (R.SET_VRING_CALL, EVENTFD, True),
        (R.SET_VRING_CALL, SOCKET, True),
        (R.SET_VRING_CALL, PIPE, True),
        (R.SET_VRING_CALL, FILE, False),
        (R.SET_VRING_ERR, PIPE, True),
        (R.SET_VRING_ERR, DescriptorKind.OTHER, False),
    ],
)
def test_kicks_are_eventfds_and_calls_whatever_can_be_written_to(
    request_: FrontRequest, kind: DescriptorKind, *, taken: bool
):
    session, fd = negotiated(), FakeFd(kind)
    if taken:
        assert isinstance(session.receive(ring_fd(request_, 0, fd)), effects.RingDescriptorChanged)
    else:
        with pytest.raises(FrontendError, match=f"{request_.name}: .* not a {kind.value}"):
            session.receive(ring_fd(request_, 0, fd))
    assert fd.closed is not taken


def test_polling_for_kicks_is_not_served():
    with pytest.raises(FrontendError, match="SET_VRING_KICK: ring 0 would have to be polled"):
        negotiated().receive(ring_fd(R.SET_VRING_KICK, 0, None))


@pytest.mark.parametrize(("present", "count"), [(True, 0), (False, 1), (True, 2)])
def test_a_payload_and_its_descriptors_must_agree(*, present: bool, count: int):
    fds = [FakeFd() for _ in range(count)]
    with pytest.raises(FrontendError, match=f"SET_VRING_CALL: {count} descriptors"):
        negotiated().receive(message(R.SET_VRING_CALL, payloads.VringDescriptor(0, present).encode(), *fds))
    assert all(fd.closed for fd in fds)


def test_get_vring_base_stops_the_ring_and_gives_the_devices_index():
    session = configured(RingAddresses(USER, USER, USER))
    call, kick = FakeFd(), session.rings[0].kick
    say(session, ring_fd(R.SET_VRING_CALL, 0, call))
    said = state(R.GET_VRING_BASE, 0)
    assert session.receive(said) == effects.RingStopped(0, kick, call)
    assert not session.ring_complete(0)
    assert (session.rings[0].kick, session.rings[0].call) == (None, None)
    assert not call.closed
    reply = session.reply(said, 4711)
    assert reply is not None
    assert payloads.decode_vring_state("X", reply[12:]) == payloads.VringState(0, 4711)
    assert call.closed
    assert session.rings[0].base == 4711


def test_every_descriptor_of_a_ring_is_closed_with_the_session():
    session = negotiated()
    fds = {request: FakeFd() for request in (R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ERR)}
    for request, fd in fds.items():
        say(session, ring_fd(request, 0, fd))
    session.close()
    assert all(fd.closed for fd in fds.values())


@pytest.mark.parametrize(
    ("batches", "keeps"),
    [
        ([(0, 1, 2, 3)], True),  # cloud-hypervisor
        ([(0, 1, 2, 3, 4)], False),  # the control queue is among them
        ([(0,), (1,), (2,), (3,)], False),  # one after the other: its turn may be to come
        ([(0, 1, 2, 3, 4), (0, 1)], True),  # another driver, with fewer queues
        ([(0, 1), (0,)], False),
        ([], False),
    ],
)
def test_who_keeps_the_control_queue_shows_in_the_rings_that_are_sized_together(
    batches: list[tuple[int, ...]], *, keeps: bool
):
    session = negotiated()
    for batch in batches:
        for index in batch:
            say(session, state(R.SET_VRING_NUM, index, 64))
        for index in batch:
            address = payloads.VringAddress(index, 0, RingAddresses(USER, USER, USER))
            say(session, message(R.SET_VRING_ADDR, address.encode()))
    assert session.keeps_control_queue is keeps
