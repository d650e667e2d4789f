"""What a session asks of the device besides memory and rings, and what it answers."""

from __future__ import annotations

import pytest

from cvqd.core.session import effects
from cvqd.errors import FrontendError
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_user import HEADER, DescriptorKind
from kit.session_messages import (
    BIT_30,
    FEATURES,
    FILE,
    PIPE,
    SOCKET,
    USER,
    FakeFd,
    R,
    configured,
    message,
    negotiated,
    reply_value,
    say,
    state,
    u64,
)


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
    say(session, u64(R.SET_STATUS, 3))
    payload = payloads.ConfigAccess(0, 0, b"\2\0\0\0\0\1").encode()
    said = message(R.SET_CONFIG, payload, need_reply=need_reply)
    assert session.receive(said) == effects.WriteConfig(0, b"\2\0\0\0\0\1", 0)
    reply = session.reply(said, effects.Refusal("read-only"))
    assert (reply_value(reply) if need_reply else reply) == (1 if need_reply else None)
    assert session.status == 3, "what was said before it is not taken back"


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
