"""Kicks and calls as messages, between a front-end that knows nothing else and the simulator."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import trio

from cvqd.testing.frontend_connection import FrontEndError
from cvqd.testing.sequences import INBAND
from cvqd.wire.net_control import MacAddrSet
from cvqd.wire.vhost_user import FrontRequest, ProtocolFeature, encode_request
from cvqd.wire.vhost_user_payloads import encode_u64
from kit.rig import MAC_A, MAC_B, Guest, Rig, frame, jumping_clock, open_descriptors, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig.opened(tmp_path, offers_inband=True) as rig:
        yield rig


@pytest.fixture
async def guest(rig: Rig) -> AsyncIterator[Guest]:
    async with await rig.connect() as front_end:
        with Guest(rig, front_end, "uml", num=64) as guest:
            await front_end.play(INBAND.connect(guest.setup))
            front_end.protocol_features = rig.backend._session.protocol_features
            await front_end.open_channel(pipe=True)
            await front_end.play(INBAND.start(guest.setup))
            yield guest
    await settled()


async def command(guest: Guest, mac: bytes) -> int:
    head = guest.driver.post_command(MacAddrSet(mac).encode())
    await guest.front_end.vring_kick(guest.control.index)
    await settled()
    assert await guest.front_end.backend_call() == guest.control.index
    used = guest.control.poll()
    assert used is not None
    assert used.head == head
    return guest.driver.take_ack(head)


async def echo(guest: Guest, sent: bytes) -> list[bytes]:
    guest.driver.send_frame(sent)
    await guest.front_end.vring_kick(1)
    await settled()
    called = {await guest.front_end.backend_call() for _ in range(2)}
    assert called == {0, 1}
    return guest.driver.received_frames()


@jumping_clock
async def test_a_ring_without_descriptors_is_kicked_and_called_by_messages(rig: Rig, guest: Guest) -> None:
    assert rig.owner.running == frozenset(range(5))
    assert rig.status["frontend"]["bridged"] == [0, 1, 2, 3, 4]
    # each data ring is called once at the start
    await settled()
    assert {await guest.front_end.backend_call() for _ in range(4)} == {0, 1, 2, 3}
    assert await command(guest, MAC_A) == 0
    assert rig.owner.state.mac == MAC_A
    guest.driver.fill(0, 8)
    await guest.front_end.vring_kick(0)
    assert await echo(guest, frame(MAC_A)) == [frame(MAC_A)]


@jumping_clock
async def test_nothing_is_kicked_that_no_message_kicked(guest: Guest) -> None:
    guest.driver.post_command(MacAddrSet(MAC_A).encode())
    await settled()
    assert guest.control.poll() is None
    await guest.front_end.vring_kick(4)
    await settled()
    assert guest.control.poll() is not None


@jumping_clock
async def test_a_driver_that_leaves_and_comes_back_goes_on_with_messages(rig: Rig, guest: Guest) -> None:
    await settled()
    assert await ready(guest) == 0
    await guest.front_end.play(INBAND.stop(guest.setup))
    await guest.front_end.get_features()
    assert not rig.owner.running
    await guest.front_end.vring_kick(0)
    guest.driver.restart()
    await guest.front_end.play(INBAND.start(guest.setup))
    assert rig.owner.running
    assert await ready(guest, MAC_B) == 0


async def ready(guest: Guest, mac: bytes = MAC_A) -> int:
    await settled()
    for _ in range(4):
        await guest.front_end.backend_call()
    return await command(guest, mac)


@jumping_clock
async def test_a_full_channel_loses_no_call(rig: Rig, guest: Guest) -> None:
    await settled()
    # nobody reads: more calls than a pipe holds
    for _ in range(4000):
        rig.owner._run.call_guest()  # type: ignore[union-attr]
        await settled()
    guest.driver.post_command(MacAddrSet(MAC_A).encode())
    await guest.front_end.vring_kick(4)
    await settled_but_for_retries()
    assert guest.control.poll() is not None, "commands are answered whoever reads"
    calls = [await guest.front_end.backend_call() for _ in range(2000)]
    assert calls.count(4) > 1900


async def settled_but_for_retries() -> None:
    """A full channel is tried again and again, so nobody ever sleeps for long."""
    for _ in range(100):
        await trio.lowlevel.checkpoint()


@jumping_clock
async def test_a_kick_of_no_ring_ends_the_connection(guest: Guest) -> None:
    with pytest.raises(FrontEndError, match="hung up"):
        await guest.front_end.vring_kick(9)


@jumping_clock
@pytest.mark.parametrize("missing", [ProtocolFeature.REPLY_ACK, ProtocolFeature.BACKEND_REQ])
async def test_messages_cannot_be_had_without_acknowledgements_and_a_channel(
    rig: Rig, missing: ProtocolFeature
) -> None:
    async with await rig.connect() as front_end:
        offered = await front_end.get_protocol_features()
        assert offered & ProtocolFeature.INBAND_NOTIFICATIONS.mask
        await front_end.send_raw(
            encode_request(FrontRequest.SET_PROTOCOL_FEATURES, encode_u64(offered & ~missing.mask))
        )
        assert await front_end.hung_up() == b""
    await settled()
    assert missing.name in str(rig.log.of("frontend.refused")[0]["reason"])


@jumping_clock
async def test_messages_are_not_offered_unasked_and_then_not_taken(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path) as rig, await rig.connect() as front_end:
        assert not await front_end.get_protocol_features() & ProtocolFeature.INBAND_NOTIFICATIONS.mask
        await front_end.vring_kick(0)
        assert await front_end.hung_up() == b""


@jumping_clock
async def test_no_descriptor_is_left_when_the_front_end_has_gone(rig: Rig) -> None:
    # what other tests' tracebacks hold would go meanwhile
    gc.collect()
    counts = []
    for _ in range(3):
        async with await rig.connect() as front_end:
            with Guest(rig, front_end, "uml", num=64) as guest:
                await front_end.play(INBAND.connect(guest.setup))
                front_end.protocol_features = rig.backend._session.protocol_features
                await front_end.open_channel()
                await front_end.play(INBAND.start(guest.setup))
                assert rig.owner.running
        await settled()
        assert rig.backend._session is None
        # its memory is mapped as long as anybody knows it
        del guest
        counts.append(open_descriptors())
    assert counts[0] == counts[1] == counts[2]
