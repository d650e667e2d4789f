"""A session fed with messages: what it takes, what it asks of the device, what it answers, what it closes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvqd.core import session_effects as effects
from cvqd.core.session import Session
from cvqd.core.session_offer import Offer
from cvqd.core.session_requests import HANDLERS
from cvqd.core.session_rules import RULES, UNANSWERABLE
from cvqd.errors import FrontendError
from cvqd.testing.sequences import ANSWERED, ORDERS, GuestSetup, RingSetup, Step
from cvqd.testing.sequences import Sequence as Steps
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_user import (
    HEADER,
    PROTOCOL_FEATURES_SERVED,
    DescriptorKind,
    FileIdentity,
    FrontRequest,
    Message,
    ProtocolFeature,
)
from cvqd.wire.virtio import Feature, Status, mask_of

R = FrontRequest
EVENTFD, SOCKET, PIPE, FILE = (
    DescriptorKind.EVENTFD,
    DescriptorKind.SOCKET,
    DescriptorKind.PIPE,
    DescriptorKind.FILE,
)
FEATURES = mask_of(Feature.VERSION_1, Feature.MAC, Feature.CTRL_VQ, Feature.MQ)
BIT_30 = Feature.PROTOCOL_FEATURES.mask
OFFER = Offer(features=FEATURES, rings=5, ring_size=256)
_inodes = itertools.count(1)


@dataclass(eq=False)
class FakeFd:
    """A descriptor that remembers whether it was closed."""

    kind: DescriptorKind = EVENTFD
    inode: int = field(default_factory=lambda: next(_inodes))
    closed: bool = False

    @property
    def identity(self) -> FileIdentity:
        return FileIdentity(7, self.inode)

    def fileno(self) -> int:
        assert not self.closed
        return 1000

    def close(self) -> None:
        self.closed = True


def message(request: int, payload: bytes = b"", *descriptors: FakeFd, need_reply: bool = False) -> Message:
    return Message(request, 9 if need_reply else 1, payload, descriptors)


def u64(request: int, value: int, *, need_reply: bool = False) -> Message:
    return message(request, payloads.encode_u64(value), need_reply=need_reply)


def state(request: int, index: int, num: int = 0, *, need_reply: bool = False) -> Message:
    return message(request, payloads.VringState(index, num).encode(), need_reply=need_reply)


def ring_fd(request: int, index: int, fd: FakeFd | None) -> Message:
    payload = payloads.VringDescriptor(index, fd is not None).encode()
    return message(request, payload, *([] if fd is None else [fd]))


def region(guest: int = 0x1000_0000, size: int = 0x10_0000, user: int = 0x7000_0000_0000, offset: int = 0):
    return payloads.RegionDescription(guest, size, user, offset)


def table(*regions: tuple[payloads.RegionDescription, FakeFd]) -> Message:
    payload = payloads.encode_memory_table(tuple(entry for entry, _ in regions))
    return message(R.SET_MEM_TABLE, payload, *(fd for _, fd in regions))


def say(session: Session, said: Message, result: effects.Result = None) -> bytes | None:
    """One message through the session, with a device that does as asked."""
    effect = session.receive(said)
    if result is None:
        match effect:
            case effects.ReadConfig(size=size):
                result = bytes(size)
            case effects.RingStopped(index=index):
                result = session.rings[index].base
            case effects.TransferDeviceState(descriptor=pipe):
                pipe.close()
    return session.reply(said, result)


def negotiated(word: int = PROTOCOL_FEATURES_SERVED, offer: Offer = OFFER) -> Session:
    session = Session(offer)
    say(session, u64(R.SET_PROTOCOL_FEATURES, word))
    return session


def reply_value(reply: bytes | None) -> int:
    assert reply is not None
    _, flags, size = HEADER.unpack(reply[:12])
    assert flags == 5
    assert size == len(reply) - 12 == 8
    return int.from_bytes(reply[12:], "little")


# tables


def test_every_rule_has_a_handler_and_no_request_is_both_served_and_unanswerable():
    assert set(RULES) == set(HANDLERS)
    assert not set(RULES) & UNANSWERABLE
    assert {request for request, rule in RULES.items() if rule.answers} == ANSWERED


# what is offered


def test_features_are_offered_with_bit_30_and_never_with_access_platform():
    assert reply_value(say(Session(OFFER), message(R.GET_FEATURES))) == FEATURES | BIT_30
    with pytest.raises(ValueError, match="ACCESS_PLATFORM"):
        Offer(features=Feature.ACCESS_PLATFORM.mask, rings=3, ring_size=256)


def test_queue_num_counts_all_rings_and_slots_are_32():
    session = negotiated()
    assert reply_value(say(session, message(R.GET_QUEUE_NUM))) == 5
    assert reply_value(say(session, message(R.GET_MAX_MEM_SLOTS))) == 32
    assert reply_value(say(session, message(R.GET_PROTOCOL_FEATURES))) == PROTOCOL_FEATURES_SERVED


@pytest.mark.parametrize("need_reply", [False, True])
@pytest.mark.parametrize("acks", [False, True])
def test_what_has_an_answer_of_its_own_is_answered_exactly_once(*, need_reply: bool, acks: bool):
    word = PROTOCOL_FEATURES_SERVED if acks else PROTOCOL_FEATURES_SERVED & ~ProtocolFeature.REPLY_ACK.mask
    session = negotiated(word)
    said = {
        R.GET_VRING_BASE: payloads.VringState(0, 0).encode(),
        R.GET_CONFIG: payloads.ConfigAccess(0, 0, bytes(6)).encode(),
        R.SET_DEVICE_STATE_FD: payloads.encode_device_state(0),
    }
    for request in ANSWERED:
        fds = [FakeFd(PIPE)] * RULES[request].least
        asked = message(request, said.get(request, b""), *fds, need_reply=need_reply)
        reply = say(session, asked)
        assert reply is not None
        assert HEADER.unpack(reply[:12]) == (request, 5, len(reply) - 12)
        with pytest.raises(RuntimeError, match="answered already"):
            session.reply(asked)


@pytest.mark.parametrize(
    ("acks", "need_reply", "answered"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_a_setter_is_acknowledged_only_if_negotiated_and_asked_for(
    *, acks: bool, need_reply: bool, answered: bool
):
    word = ProtocolFeature.REPLY_ACK.mask if acks else 0
    reply = say(negotiated(word), state(R.SET_VRING_NUM, 0, 64, need_reply=need_reply))
    assert (reply is not None) is answered
    if answered:
        assert reply_value(reply) == 0


def test_the_message_that_negotiates_acknowledgements_is_acknowledged_if_it_asks():
    session = Session(OFFER)
    assert reply_value(say(session, u64(R.SET_PROTOCOL_FEATURES, 8, need_reply=True))) == 0


def test_the_message_that_does_not_negotiate_acknowledgements_is_not():
    assert say(Session(OFFER), u64(R.SET_PROTOCOL_FEATURES, 1, need_reply=True)) is None


# features


def test_features_reach_the_device_without_bit_30():
    session = Session(OFFER)
    effect = session.receive(u64(R.SET_FEATURES, FEATURES | BIT_30))
    assert effect == effects.SetFeatures(FEATURES, implicit_enable=False)
    assert (session.features, session.features_set) == (FEATURES, True)
    assert not any(ring.enabled for ring in session.rings.values())


def test_features_without_bit_30_enable_all_rings_and_bit_30_later_disables_them_again():
    session = Session(OFFER)
    say(session, u64(R.SET_FEATURES, FEATURES | BIT_30))
    assert session.receive(u64(R.SET_FEATURES, FEATURES)) == effects.SetFeatures(
        FEATURES, implicit_enable=True
    )
    assert all(ring.enabled for ring in session.rings.values())
    say(session, u64(R.SET_FEATURES, FEATURES | BIT_30))
    assert not any(ring.enabled for ring in session.rings.values())


def test_a_ring_enabled_before_features_stays_enabled():
    session = Session(OFFER)
    say(session, state(R.SET_VRING_ENABLE, 1, 1))
    say(session, u64(R.SET_FEATURES, FEATURES | BIT_30))
    assert [ring.enabled for ring in session.rings.values()] == [False, True, False, False, False]


def test_features_that_were_not_offered_end_the_connection_by_name():
    with pytest.raises(FrontendError, match="SET_FEATURES: not offered: LOG_ALL, ACCESS_PLATFORM"):
        Session(OFFER).receive(u64(R.SET_FEATURES, mask_of(Feature.LOG_ALL, Feature.ACCESS_PLATFORM)))
    with pytest.raises(FrontendError, match="SET_PROTOCOL_FEATURES: not offered: LOG_SHMFD"):
        Session(OFFER).receive(u64(R.SET_PROTOCOL_FEATURES, 2))


def test_refused_features_are_told_where_acknowledgements_are_and_taken_back():
    session = negotiated()
    say(session, u64(R.SET_FEATURES, Feature.VERSION_1.mask | BIT_30))
    refused = u64(R.SET_FEATURES, FEATURES, need_reply=True)
    assert reply_value(say(session, refused, effects.Refusal("the control queue is not isolated"))) == 1
    assert session.features == Feature.VERSION_1.mask
    assert not any(ring.enabled for ring in session.rings.values())


def test_refused_features_end_the_connection_where_they_cannot_be_told():
    with pytest.raises(FrontendError, match="SET_FEATURES: the control queue is not isolated"):
        say(negotiated(), u64(R.SET_FEATURES, FEATURES), effects.Refusal("the control queue is not isolated"))


def test_what_the_device_cannot_refuse_ends_the_connection_even_with_acknowledgements():
    with pytest.raises(FrontendError, match="SET_VRING_NUM: no"):
        say(negotiated(), state(R.SET_VRING_NUM, 0, 64, need_reply=True), effects.Refusal("no"))


@pytest.mark.parametrize(
    ("request_", "payload", "descriptors", "feature"),
    [
        (R.GET_QUEUE_NUM, b"", 0, ProtocolFeature.MQ),
        (R.SET_BACKEND_REQ_FD, b"", 1, ProtocolFeature.BACKEND_REQ),
        (R.GET_CONFIG, payloads.ConfigAccess(0, 0, bytes(6)).encode(), 0, ProtocolFeature.CONFIG),
        (R.SET_CONFIG, payloads.ConfigAccess(0, 0, bytes(6)).encode(), 0, ProtocolFeature.CONFIG),
        (R.RESET_DEVICE, b"", 0, ProtocolFeature.RESET_DEVICE),
        (R.GET_MAX_MEM_SLOTS, b"", 0, ProtocolFeature.CONFIGURE_MEM_SLOTS),
        (R.ADD_MEM_REG, region().encode_single(), 1, ProtocolFeature.CONFIGURE_MEM_SLOTS),
        (R.REM_MEM_REG, region().encode_single(), 0, ProtocolFeature.CONFIGURE_MEM_SLOTS),
        (R.SET_STATUS, bytes(8), 0, ProtocolFeature.STATUS),
        (R.GET_STATUS, b"", 0, ProtocolFeature.STATUS),
        (R.SET_DEVICE_STATE_FD, bytes(8), 1, ProtocolFeature.DEVICE_STATE),
        (R.CHECK_DEVICE_STATE, b"", 0, ProtocolFeature.DEVICE_STATE),
    ],
)
def test_what_a_protocol_feature_gates_needs_that_feature(
    request_: FrontRequest, payload: bytes, descriptors: int, feature: ProtocolFeature
):
    fds = [FakeFd(SOCKET) for _ in range(descriptors)]
    with pytest.raises(FrontendError, match=f"{request_.name}: protocol feature {feature.name} was not"):
        negotiated(PROTOCOL_FEATURES_SERVED & ~feature.mask).receive(message(request_, payload, *fds))
    assert all(fd.closed for fd in fds)


# requests that are not served


@pytest.mark.parametrize("request_", [R.SEND_RARP, R.SET_LOG_BASE, R.POSTCOPY_LISTEN, R.SET_VRING_ENDIAN, 99])
def test_an_unserved_request_is_skipped_and_fails_if_it_asks(request_: int):
    session, fd = negotiated(), FakeFd()
    assert say(session, message(request_, bytes(16), fd)) is None
    assert fd.closed
    assert reply_value(say(session, message(request_, bytes(16), need_reply=True))) == 1


@pytest.mark.parametrize("request_", sorted(UNANSWERABLE))
def test_an_unserved_request_that_waits_for_content_ends_the_connection(request_: FrontRequest):
    with pytest.raises(FrontendError, match=f"{request_.name}: was not offered"):
        negotiated().receive(message(request_))


def test_owner_messages_mean_nothing():
    session = negotiated()
    for request in (R.SET_OWNER, R.RESET_OWNER):
        assert session.receive(message(request)) is None
    assert session.receive(message(R.SET_OWNER, b"")) is None


# memory


def test_a_table_is_mapped_and_the_same_table_again_is_not():
    session = negotiated()
    first, again = FakeFd(FILE), FakeFd(FILE)
    again.inode = first.inode
    effect = session.receive(table((region(), first)))
    assert isinstance(effect, effects.MemoryChanged)
    assert [found.descriptor for found in effect.added] == [first]
    assert session.receive(table((region(user=0x5000_0000), again))) == effects.MemoryChanged((), ())
    assert not first.closed
    assert again.closed
    assert session.guest_address(0x5000_0010, 16) == 0x1000_0010


@pytest.mark.parametrize("change", [{"guest": 0x2000_0000}, {"size": 0x20_0000}, {"offset": 0x1000}, {}])
def test_a_region_that_differs_is_removed_and_added(change: dict[str, int]):
    session = negotiated()
    first, second = FakeFd(FILE), FakeFd(FILE)
    if change:
        second.inode = first.inode
    say(session, table((region(), first)))
    said = table((region(**change), second))
    effect = session.receive(said)
    assert isinstance(effect, effects.MemoryChanged)
    assert [found.descriptor for found in effect.removed] == [first]
    assert [found.descriptor for found in effect.added] == [second]
    assert not first.closed, "the device may still use it"
    session.reply(said)
    assert first.closed
    assert not second.closed


@pytest.mark.parametrize(
    ("regions", "reason"),
    [
        ([region(size=0)], "has no bytes"),
        ([region(guest=(1 << 64) - 0x1000)], "guest addresses .* wrap"),
        ([region(user=(1 << 64) - 0x1000)], "user addresses .* wrap"),
        ([region(offset=(1 << 64) - 0x1000)], "file offsets .* wrap"),
        ([region(size=(1 << 64) - 1)], "wrap"),
        ([region(), region(user=0x6000_0000)], "guest addresses .* overlap"),
        ([region(), region(guest=0x1000_0000 + 0xF_FFFF, user=0x6000_0000)], "guest addresses .* overlap"),
        ([region(), region(guest=0x9000_0000)], "user addresses .* overlap"),
        ([region(guest=at << 32, user=at << 32) for at in range(33)], "33 regions, at most 32"),
    ],
)
def test_an_impossible_table_is_refused_and_its_descriptors_closed(
    regions: list[payloads.RegionDescription], reason: str
):
    session, kept = negotiated(), FakeFd(FILE)
    say(session, table((region(guest=0xF000_0000), kept)))
    fds = [FakeFd(FILE) for _ in regions]
    with pytest.raises(FrontendError, match=reason):
        session.receive(table(*zip(regions, fds, strict=True)))
    assert all(fd.closed for fd in fds)
    assert not kept.closed
    session.close()
    assert kept.closed


def test_neighbouring_regions_do_not_overlap():
    session = negotiated()
    above = region(guest=0x1000_0000 + 0x10_0000, user=0x7000_0000_0000 + 0x10_0000)
    say(session, table((above, FakeFd(FILE)), (region(), FakeFd(FILE))))
    assert len(session.memory) == 2


def test_without_memory_slots_a_table_has_at_most_eight_regions():
    regions = [(region(guest=at << 32, user=at << 32), FakeFd(FILE)) for at in range(9)]
    session = negotiated(0)
    say(session, table(*regions[:8]))
    with pytest.raises(FrontendError, match="9 regions, at most 8"):
        session.receive(table(*regions))


@pytest.mark.parametrize("count", [0, 2])
def test_a_table_has_one_descriptor_per_region(count: int):
    fds = [FakeFd(FILE) for _ in range(count)]
    with pytest.raises(FrontendError, match=f"{count} descriptors for 1 regions"):
        negotiated().receive(message(R.SET_MEM_TABLE, payloads.encode_memory_table((region(),)), *fds))
    assert all(fd.closed for fd in fds)


def test_regions_come_and_go_one_by_one():
    session = negotiated()
    low, high = FakeFd(FILE), FakeFd(FILE)
    upper = region(guest=0x9000_0000, user=0x6000_0000)
    say(session, message(R.ADD_MEM_REG, region().encode_single(), low))
    effect = session.receive(message(R.ADD_MEM_REG, upper.encode_single(), high))
    assert isinstance(effect, effects.MemoryChanged)
    assert [found.descriptor for found in effect.added] == [high]
    removal = message(R.REM_MEM_REG, region(offset=0x5000).encode_single(), extra := FakeFd(FILE))
    effect = session.receive(removal)
    assert extra.closed
    assert isinstance(effect, effects.MemoryChanged)
    assert [found.descriptor for found in effect.removed] == [low]
    session.reply(removal)
    assert low.closed
    assert [found.guest_address for found in session.memory] == [0x9000_0000]


def taken(session: Session, said: Message) -> effects.MemoryChanged:
    """Say it; what it changed."""
    effect = session.receive(said)
    assert isinstance(effect, effects.MemoryChanged)
    session.reply(said)
    return effect


def test_a_region_that_was_added_twice_is_there_until_it_was_removed_twice():
    session = negotiated()
    first, again, other = FakeFd(FILE, 5000), FakeFd(FILE, 5000), FakeFd(FILE)
    nothing = effects.MemoryChanged((), ())
    taken(session, message(R.ADD_MEM_REG, region().encode_single(), first))
    assert taken(session, message(R.ADD_MEM_REG, region().encode_single(), again)) == nothing
    assert again.closed
    assert not first.closed
    assert len(session.memory) == 1
    with pytest.raises(FrontendError, match="overlap"):
        session.receive(message(R.ADD_MEM_REG, region().encode_single(), other))
    assert taken(session, message(R.REM_MEM_REG, region().encode_single())) == nothing
    assert not first.closed
    removed = taken(session, message(R.REM_MEM_REG, region().encode_single()))
    assert [found.descriptor for found in removed.removed] == [first]
    assert first.closed
    with pytest.raises(FrontendError, match="there is no such region"):
        session.receive(message(R.REM_MEM_REG, region().encode_single()))


def test_a_new_table_forgets_how_often_a_region_was_added():
    session = negotiated()
    for _ in range(3):
        taken(session, message(R.ADD_MEM_REG, region().encode_single(), FakeFd(FILE, 5000)))
    taken(session, message(R.SET_MEM_TABLE, payloads.encode_memory_table((region(),)), FakeFd(FILE, 5000)))
    assert len(taken(session, message(R.REM_MEM_REG, region().encode_single())).removed) == 1


def test_a_region_that_is_not_there_cannot_be_removed_nor_a_33rd_added():
    session = negotiated()
    with pytest.raises(FrontendError, match="REM_MEM_REG: there is no such region"):
        session.receive(message(R.REM_MEM_REG, region().encode_single()))
    for at in range(32):
        entry = region(guest=at << 32, user=at << 32)
        say(session, message(R.ADD_MEM_REG, entry.encode_single(), FakeFd(FILE)))
    with pytest.raises(FrontendError, match="all 32 memory slots"):
        session.receive(message(R.ADD_MEM_REG, region(guest=99 << 32).encode_single(), FakeFd(FILE)))


@pytest.mark.parametrize("count", [0, 2])
def test_add_mem_reg_takes_exactly_one_descriptor(count: int):
    fds = [FakeFd(FILE) for _ in range(count)]
    with pytest.raises(FrontendError, match="ADD_MEM_REG: "):
        negotiated().receive(message(R.ADD_MEM_REG, region().encode_single(), *fds))
    assert all(fd.closed for fd in fds)


# rings


def configured(addresses: RingAddresses, num: int = 64) -> Session:
    session = negotiated()
    say(session, table((region(), FakeFd(FILE))))
    say(session, state(R.SET_VRING_NUM, 0, num))
    say(session, message(R.SET_VRING_ADDR, payloads.VringAddress(0, 1, addresses, 0xBAD).encode()))
    say(session, ring_fd(R.SET_VRING_KICK, 0, FakeFd()))
    return session


USER = 0x7000_0000_0000


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


# config, status, reset, channel


def test_config_is_read_through_the_device_and_answered_in_the_requests_size():
    session = negotiated()
    said = message(R.GET_CONFIG, payloads.ConfigAccess(2, 1, bytes(4)).encode())
    assert session.receive(said) == effects.ReadConfig(2, 4)
    reply = session.reply(said, b"abcd")
    assert reply is not None
    assert reply[12:] == payloads.ConfigAccess(2, 1, b"abcd").encode()


def test_config_that_is_not_there_has_an_empty_answer():
    reply = say(
        negotiated(),
        message(R.GET_CONFIG, payloads.ConfigAccess(250, 0, bytes(4)).encode()),
        effects.Refusal("outside"),
    )
    assert reply == HEADER.pack(R.GET_CONFIG, 5, 0)


@pytest.mark.parametrize("need_reply", [False, True])
def test_a_refused_config_write_does_not_end_the_connection(*, need_reply: bool):
    session = negotiated()
    payload = payloads.ConfigAccess(0, 0, b"\2\0\0\0\0\1").encode()
    said = message(R.SET_CONFIG, payload, need_reply=need_reply)
    assert session.receive(said) == effects.WriteConfig(0, b"\2\0\0\0\0\1", 0)
    reply = session.reply(said, effects.Refusal("read-only"))
    assert (reply_value(reply) if need_reply else reply) == (1 if need_reply else None)


def test_status_is_kept_and_asked_for():
    session = negotiated()
    assert session.status_negotiated
    assert session.receive(u64(R.SET_STATUS, 3)) == effects.SetStatus(0, 3)
    assert session.receive(u64(R.SET_STATUS, 15)) == effects.SetStatus(3, 15)
    assert session.status == 15
    assert reply_value(say(session, message(R.GET_STATUS))) == 15
    assert reply_value(say(session, message(R.GET_STATUS), 0x40)) == 0x40
    with pytest.raises(FrontendError, match="is no byte"):
        session.receive(u64(R.SET_STATUS, 0x100))


def test_a_refused_status_goes_back():
    session = negotiated()
    say(session, u64(R.SET_STATUS, 3))
    say(session, u64(R.SET_STATUS, 11), effects.Refusal("features"))
    assert session.status == 3


def test_reset_disables_all_rings_and_keeps_memory_and_features():
    session = configured(RingAddresses(USER, USER, USER))
    say(session, u64(R.SET_FEATURES, FEATURES | BIT_30))
    say(session, state(R.SET_VRING_ENABLE, 0, 1))
    say(session, u64(R.SET_STATUS, 15))
    assert session.receive(message(R.RESET_DEVICE)) == effects.ResetDevice()
    assert not session.rings[0].enabled
    assert session.status == 0
    assert session.memory
    assert session.features == FEATURES


def test_the_back_end_channel_is_a_socket_or_a_pipe_and_can_be_replaced():
    session = negotiated()
    first, second, wrong = FakeFd(SOCKET), FakeFd(PIPE), FakeFd(FILE)
    say(session, message(R.SET_BACKEND_REQ_FD, b"", first))
    assert session.backend_channel is first
    say(session, message(R.SET_BACKEND_REQ_FD, b"", second))
    assert first.closed
    with pytest.raises(FrontendError, match="a socket or a pipe, not a file"):
        session.receive(message(R.SET_BACKEND_REQ_FD, b"", wrong))
    assert wrong.closed
    session.close()
    assert second.closed
    assert session.backend_channel is None


@pytest.mark.parametrize("direction", payloads.TransferDirection)
def test_a_state_transfer_hands_its_pipe_on_and_names_no_better_one(direction: payloads.TransferDirection):
    session, pipe = negotiated(), FakeFd(PIPE)
    begin = message(R.SET_DEVICE_STATE_FD, payloads.encode_device_state(direction), pipe)
    assert session.receive(begin) == effects.TransferDeviceState(direction, pipe)
    assert reply_value(session.reply(begin)) == 0x100
    session.close()
    assert not pipe.closed, "the transfer's"
    begin = message(R.SET_DEVICE_STATE_FD, payloads.encode_device_state(direction), FakeFd(SOCKET))
    session = negotiated()
    assert reply_value(say(session, begin, effects.Refusal("its rings are running"))) == 0x101


def test_how_a_state_transfer_ended_is_answered_and_not_acknowledged():
    session = negotiated()
    check = message(R.CHECK_DEVICE_STATE, need_reply=True)
    assert session.receive(check) == effects.CheckDeviceState()
    assert reply_value(session.reply(check)) == 0
    assert reply_value(say(session, check, effects.Refusal("it is no snapshot"))) == 1


@pytest.mark.parametrize(
    ("payload", "kind", "reason"),
    [
        (payloads.encode_device_state(2), PIPE, "direction 2 is neither 0 nor 1"),
        (payloads.encode_device_state(0, phase=1), PIPE, "phase 1 is not 0"),
        (bytes(7), PIPE, "payload of 7 bytes"),
        (bytes(8), FILE, "a pipe or a socket, not a file"),
    ],
)
def test_a_state_transfer_that_cannot_be_is_refused(payload: bytes, kind: DescriptorKind, reason: str):
    fd = FakeFd(kind)
    with pytest.raises(FrontendError, match=reason):
        negotiated().receive(message(R.SET_DEVICE_STATE_FD, payload, fd))
    assert fd.closed


# whole front-ends


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
    expected = set(range(4 if name == "qemu-net" else 5))
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
        assert bool(stopped) is (name != "uml")
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


# anything at all


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
