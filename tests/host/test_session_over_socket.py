"""Front-end, connection and session together, over a real socket."""

from __future__ import annotations

import gc
import os
import socket

import pytest
import trio

from cvqd.core.session.effects import ReadConfig, RingStopped
from cvqd.core.session.offer import Offer
from cvqd.core.session.session import Session
from cvqd.errors import FrontendError
from cvqd.host.backend_channel import send_config_change
from cvqd.host.listener import Connection
from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.vhost_user import (
    PROTOCOL_FEATURES_SERVED,
    BackRequest,
    DescriptorKind,
    FrontRequest,
    encode_request,
)
from cvqd.wire.virtio import Feature, mask_of
from kit.stream_peer import eventfds, open_descriptors

R = FrontRequest
FEATURES = mask_of(Feature.VERSION_1, Feature.MAC, Feature.CTRL_VQ)
OFFER = Offer(features=FEATURES, rings=3, ring_size=256)


async def serve(connection: Connection, session: Session, ended: list[str]) -> None:
    """What the daemon's glue does, with a device that is content with everything."""
    async with connection:
        try:
            while (message := await connection.receive()) is not None:
                effect = session.receive(message)
                result: int | bytes | None = None
                if isinstance(effect, ReadConfig):
                    result = bytes(range(effect.size))
                if isinstance(effect, RingStopped):
                    result = 3
                reply = session.reply(message, result)
                if reply is not None:
                    await connection.send(reply)
            ended.append("end")
        except FrontendError as error:
            ended.append(str(error))
        finally:
            session.close()


@pytest.mark.parametrize("name", ORDERS)
async def test_each_order_plays_over_a_socket_and_leaves_no_descriptor(name: str):
    kind = DescriptorKind.SOCKET if name == "uml" else DescriptorKind.EVENTFD
    ended: list[str] = []
    gc.collect()
    with GuestMemory() as memory:
        before = open_descriptors()
        with NetDriver(memory, 1, 64, call_kind=kind) as driver:
            ours, theirs = socket.socketpair()
            session = Session(OFFER)
            setup = driver.setup(FEATURES)._replace(channel=driver.queues[0].call if name == "uml" else None)
            async with trio.open_nursery() as nursery, FrontEnd(theirs) as front_end:
                nursery.start_soon(serve, Connection(ours), session, ended)
                for steps in ORDERS[name]:
                    await front_end.play(steps(setup))
                    await front_end.get_features()  # a barrier, for those who wait for nothing
                    if steps is ORDERS[name].start:
                        assert session.ring_complete(0)
                        assert session.guest_ring(1) == driver.queues[1].addresses
                        assert session.memory[0].descriptor.identity.inode == os.fstat(memory.fileno()).st_ino
        assert ended == ["end"]
        assert open_descriptors() == before


async def test_the_front_ends_methods_say_what_they_mean():
    ours, theirs = socket.socketpair()
    session = Session(OFFER)
    ended: list[str] = []
    with GuestMemory() as memory, NetDriver(memory, 1, 64) as driver:
        async with trio.open_nursery() as nursery, FrontEnd(theirs) as fe:
            nursery.start_soon(serve, Connection(ours), session, ended)
            assert await fe.get_features() == FEATURES | Feature.PROTOCOL_FEATURES.mask
            assert await fe.get_protocol_features() == PROTOCOL_FEATURES_SERVED
            await fe.set_protocol_features(PROTOCOL_FEATURES_SERVED)
            await fe.set_owner()
            assert (await fe.get_queue_num(), await fe.get_max_mem_slots()) == (3, 32)
            await fe.set_features(FEATURES | Feature.PROTOCOL_FEATURES.mask)
            await fe.set_mem_table([(memory.description, memory.fileno())])
            await fe.rem_mem_reg(memory.description)
            assert session.memory == ()
            await fe.add_mem_reg(memory.description, memory.fileno())
            ring = driver.queues[2].setup()
            await fe.set_vring_num(2, ring.num)
            await fe.set_vring_base(2, 0)
            await fe.set_vring_addr(2, ring.addresses)
            await fe.set_vring_kick(2, ring.kick)
            await fe.set_vring_call(2, ring.call)
            await fe.set_vring_err(2, None)
            await fe.set_vring_enable(2, enable=True)
            assert session.ring_complete(2)
            assert session.rings[2].enabled
            assert session.guest_ring(2) == driver.queues[2].addresses
            assert await fe.get_config(0, 6) == bytes(range(6))
            await fe.set_config(0, b"abc")
            await fe.set_status(15)
            assert await fe.get_status() == 15
            await fe.reset_device()
            assert not session.rings[2].enabled
            assert await fe.get_vring_base(2) == 3
            for pipe in (True, False):
                await fe.open_channel(pipe=pipe)
                assert session.backend_channel is not None
                assert send_config_change(session.backend_channel)
                assert await fe.backend_request() is BackRequest.CONFIG_CHANGE_MSG
    assert ended == ["end"]


def _table(*regions: payloads.RegionDescription) -> bytes:
    return encode_request(R.SET_MEM_TABLE, payloads.encode_memory_table(regions))


_LOW = payloads.RegionDescription(0, 0x1000, 0x7000_0000, 0)
_WRAPS = payloads.RegionDescription((1 << 64) - 0x1000, 0x2000, 0x7000_0000, 0)
BAD_MESSAGES = {
    "descriptor too few": (_table(_LOW), 0, "SET_MEM_TABLE: 0 descriptors for 1 regions"),
    "descriptor too many": (_table(_LOW), 2, "SET_MEM_TABLE: 2 descriptors for 1 regions"),
    "overlap": (_table(_LOW, _LOW), 2, "overlap"),
    "wrap": (_table(_WRAPS), 1, "wrap around"),
    "nine regions": (
        _table(*(payloads.RegionDescription(at << 20, 1, at << 20, 0) for at in range(9))),
        9,
        "9 regions, at most 8",
    ),
    "a count as large as can be said": (
        encode_request(R.SET_MEM_TABLE, b"\xff\xff\xff\xff" + bytes(36)),
        1,
        "4294967295 regions",
    ),
    "features with a descriptor": (encode_request(R.SET_FEATURES, bytes(8)), 1, "1 descriptors, 0 to 0"),
    "kick without one": (encode_request(R.SET_VRING_KICK, bytes(8)), 0, "0 descriptors, the payload says 1"),
    "kick of ring 255": (encode_request(R.SET_VRING_KICK, b"\xff" + bytes(7)), 1, "there is no ring 255"),
    "short payload": (encode_request(R.SET_VRING_CALL, bytes(7)), 1, "payload of 7 bytes, 8 are needed"),
    "inflight buffer": (encode_request(R.GET_INFLIGHT_FD, bytes(24)), 1, "was not offered"),
    "device state": (encode_request(R.SET_DEVICE_STATE_FD, bytes(8)), 1, "DEVICE_STATE was not negotiated"),
}


@pytest.mark.parametrize(("data", "count", "reason"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
async def test_a_bad_message_ends_the_connection_with_a_reason_and_leaks_nothing(
    data: bytes, count: int, reason: str
):
    gc.collect()
    before = open_descriptors()
    ours, theirs = socket.socketpair()
    ended: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, Connection(ours), Session(OFFER), ended)
        async with FrontEnd(theirs) as front_end:
            with eventfds(count) as fds:
                await front_end.send_raw(data, b"", fds)
            assert await front_end.hung_up() == b""
            with pytest.raises(FrontEndError):
                await front_end.get_features()
    assert len(ended) == 1
    assert reason in ended[0]
    # those of an earlier test may be collected meanwhile
    assert open_descriptors().items() <= before.items()
