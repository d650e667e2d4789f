"""Front-ends that break the protocol: the connection ends with a reason, the next one is served.

Every case runs against the real listener and back-end; most of them twice, on
a fresh connection and on one whose guest runs.
"""

from __future__ import annotations

import gc
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio

from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.vhost_user import HEADER, MAX_PAYLOAD, FrontRequest, encode_request
from cvqd.wire.virtio import Feature
from kit.broken_messages import REFUSED
from kit.hostile_frontend import BIT_30, Descriptors, R, next_is_served, refused, talking
from kit.rig import MAC_A, Guest, Rig, open_descriptors, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig.opened(tmp_path) as rig:
        yield rig


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Descriptors]:
    files = Descriptors(tmp_path)
    yield files
    files.close()


RAW = {
    "half a header": (HEADER.pack(1, 1, 0)[:7], "header", "truncated: 7 of 12"),
    "one byte": (b"\x01", "header", "truncated: 1 of 12"),
    "half a payload": (HEADER.pack(R.SET_FEATURES, 1, 8) + bytes(3), "SET_FEATURES", "truncated: 3 of 8"),
    "a payload that never comes": (HEADER.pack(R.SET_MEM_TABLE, 1, 4096), "SET_MEM_TABLE", "truncated: 0"),
    "a size above the limit": (HEADER.pack(R.SET_FEATURES, 1, MAX_PAYLOAD + 1), "SET_FEATURES", "above the"),
    "the field's largest size": (
        HEADER.pack(R.SET_FEATURES, 1, 2**32 - 1),
        "SET_FEATURES",
        "above the limit",
    ),
    "the largest size of an unknown request": (
        HEADER.pack(77, 1, 2**32 - 1),
        "REQUEST_77",
        "above the limit",
    ),
    "version 0": (HEADER.pack(R.GET_FEATURES, 0, 0), "GET_FEATURES", "flags 0x0"),
    "version 2": (HEADER.pack(R.GET_FEATURES, 2, 0), "GET_FEATURES", "flags 0x2"),
    "a reply": (HEADER.pack(R.GET_FEATURES, 5, 0), "GET_FEATURES", "flags 0x5"),
    "all flags": (HEADER.pack(R.GET_FEATURES, 2**32 - 1, 0), "GET_FEATURES", "flags 0xffffffff"),
    "text": (b"GET / HTTP/1.1\r\n\r\n", "REQUEST_542393671", "flags"),
}


@pytest.mark.parametrize(("data", "request_name", "reason"), RAW.values(), ids=list(RAW))
async def test_bytes_that_are_no_message_end_the_connection(
    rig: Rig, data: bytes, request_name: str, reason: str
) -> None:
    await next_is_served(rig)
    before = open_descriptors()
    async with await rig.connect() as front_end:
        await front_end.send_raw(data)
        front_end._stream.shutdown(socket.SHUT_WR)
        event = await refused(rig, front_end)
    assert event["request"] == request_name
    assert reason in event["reason"]
    assert open_descriptors() == before
    await next_is_served(rig)


async def test_a_peer_that_says_nothing_and_leaves_is_no_offender(rig: Rig) -> None:
    async with await rig.connect():
        await settled()
    await settled()
    assert not rig.log.of("frontend.refused")
    assert rig.log.of("frontend.disconnected")
    await next_is_served(rig)


async def test_a_peer_that_never_reads_its_replies_stops_only_itself(rig: Rig) -> None:
    async with await rig.connect() as front_end:
        question = encode_request(R.GET_FEATURES)
        front_end._stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        with trio.move_on_after(0.2):
            while True:
                await front_end.send_raw(question * 100)
    await settled()
    await next_is_served(rig)


@pytest.mark.parametrize("running", [False, True], ids=["fresh", "running"])
@pytest.mark.parametrize(("speech", "request_name", "reason"), REFUSED.values(), ids=list(REFUSED))
async def test_a_message_that_breaks_the_protocol_ends_the_connection(
    rig: Rig, files: Descriptors, speech: Any, request_name: str, reason: str, *, running: bool
) -> None:
    await next_is_served(rig)
    before = open_descriptors()
    with GuestMemory() as memory:
        async with await rig.connect() as front_end:
            with Guest(rig, front_end, "qemu", memory=memory) as guest:
                await front_end.play(guest.order.connect(guest.setup))
                if running:
                    await guest.start()
                    await guest.set_mac(MAC_A)
                await speech(front_end, files)
                event = await refused(rig, front_end)
    assert event["request"] == request_name
    assert reason in str(event["reason"])
    files.close()
    files._open.clear()
    # the memory object's own mapping is still here
    assert open_descriptors() <= before + 1
    await next_is_served(rig)


@pytest.mark.parametrize(
    "request_",
    [R.GET_QUEUE_NUM, R.GET_CONFIG, R.SET_CONFIG, R.RESET_DEVICE, R.GET_STATUS, R.SET_STATUS, R.ADD_MEM_REG],
)
async def test_a_request_whose_feature_was_not_negotiated_ends_the_connection(
    rig: Rig, request_: FrontRequest
) -> None:
    async with await rig.connect() as front_end:
        await front_end.send_raw(encode_request(request_, bytes(40)))
        event = await refused(rig, front_end)
    assert event["request"] == request_.name
    assert "was not negotiated" in str(event["reason"])
    await next_is_served(rig)


@pytest.mark.parametrize("number", [0, 45, 999, 2**32 - 1, R.SET_LOG_BASE, R.SEND_RARP, R.SET_VRING_ENDIAN])
@pytest.mark.parametrize("size", [0, 8, MAX_PAYLOAD])
async def test_an_unknown_request_is_skipped_and_answered_only_if_it_asks(
    rig: Rig, number: int, size: int
) -> None:
    async with talking(rig) as front_end:
        await front_end.send_raw(encode_request(number, bytes(size)))
        await front_end.get_features()
        await front_end.send_raw(encode_request(number, bytes(size), need_reply=True))
        assert payloads.decode_u64("ack", await front_end.receive_reply(number)) != 0
        await front_end.get_features()
    assert not rig.log.of("frontend.refused")


async def test_an_unknown_requests_descriptors_are_closed(rig: Rig, files: Descriptors) -> None:
    async with talking(rig) as front_end:
        sent = [files.eventfd() for _ in range(10)]
        # what a test before this one left to the collector is not to be found missing
        gc.collect()
        before = open_descriptors()
        await front_end.send_raw(encode_request(999, bytes(8)), b"", sent)
        await front_end.get_features()
        assert open_descriptors() == before


@pytest.mark.parametrize(("offset", "size"), [(0, 25), (24, 1), (23, 2), (2**32 - 1, 1), (2**32 - 256, 256)])
async def test_configuration_outside_the_space_is_answered_with_nothing(
    rig: Rig, offset: int, size: int
) -> None:
    async with talking(rig) as front_end:
        with pytest.raises(FrontEndError, match="GET_CONFIG was refused"):
            await front_end.get_config(offset, size)
        assert len(await front_end.get_config(0, 24)) == 24


async def test_configuration_cannot_be_written(rig: Rig) -> None:
    async with talking(rig) as front_end:
        before = await front_end.get_config(0, 24)
        with pytest.raises(FrontEndError, match="SET_CONFIG was refused"):
            await front_end.set_config(0, MAC_A)
        assert await front_end.get_config(0, 24) == before


async def test_features_that_change_under_a_running_device_are_refused(rig: Rig) -> None:
    async with rig.guest("qemu") as guest:
        await guest.start()
        with pytest.raises(FrontEndError, match="SET_FEATURES was refused"):
            await guest.front_end.set_features(BIT_30 | Feature.VERSION_1.mask, need_reply=True)
        await guest.set_mac()


async def test_without_reply_ack_a_refused_setter_ends_the_connection(rig: Rig) -> None:
    async with rig.guest("crosvm") as guest:
        await guest.start()
        await guest.front_end.set_features(BIT_30 | Feature.VERSION_1.mask)
        event = await refused(rig, guest.front_end)
        assert event["request"] == "SET_FEATURES"
    await next_is_served(rig)
