"""A session fed with messages: what it offers, takes, asks of the device, answers and refuses."""

from __future__ import annotations

import pytest

from cvqd.core.session import effects
from cvqd.core.session.offer import Offer
from cvqd.core.session.requests import HANDLERS
from cvqd.core.session.rules import RULES, UNANSWERABLE
from cvqd.core.session.session import Session
from cvqd.errors import FrontendError
from cvqd.testing.steps import ANSWERED
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.vhost_user import HEADER, PROTOCOL_FEATURES_SERVED, FrontRequest, ProtocolFeature
from cvqd.wire.virtio import Feature, mask_of
from kit.session_messages import (
    BIT_30,
    FEATURES,
    OFFER,
    PIPE,
    SOCKET,
    FakeFd,
    R,
    message,
    negotiated,
    region,
    reply_value,
    say,
    state,
    u64,
)


def test_every_rule_has_a_handler_and_no_request_is_both_served_and_unanswerable():
    assert set(RULES) == set(HANDLERS)
    assert not set(RULES) & UNANSWERABLE
    assert {request for request, rule in RULES.items() if rule.answers} == ANSWERED


def test_features_are_offered_with_bit_30_and_never_with_access_platform():
    assert reply_value(say(Session(OFFER), message(R.GET_FEATURES))) == FEATURES | BIT_30
    with pytest.raises(ValueError, match="ACCESS_PLATFORM"):
        Offer(features=Feature.ACCESS_PLATFORM.mask, rings=3, ring_size=256)


def test_an_offer_is_narrowed_and_never_widened():
    session = negotiated()
    session.narrow(mask_of(Feature.VERSION_1, Feature.MQ, Feature.CTRL_VLAN))
    assert (
        reply_value(say(session, message(R.GET_FEATURES))) == mask_of(Feature.VERSION_1, Feature.MQ) | BIT_30
    )
    session.narrow(FEATURES)
    assert reply_value(say(session, message(R.GET_FEATURES))) == FEATURES | BIT_30


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
