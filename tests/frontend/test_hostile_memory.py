"""Front-ends whose rings or regions lie where nothing may: named, and nothing of them stays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cvqd.simulator.spec import SimulatorSpec
from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_vdpa import IovaRange
from kit.hostile_frontend import Descriptors, R, next_is_served, refused, send, state, talking
from kit.rig import Guest, Rig, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig.opened(tmp_path) as rig:
        yield rig


def addresses(guest: Guest, **parts: int) -> bytes:
    own = RingAddresses(*map(guest.memory.user_address, guest.control.addresses))
    return payloads.VringAddress(guest.control.index, 0, own._replace(**parts)).encode()


OUTSIDE: dict[str, Callable[[Guest], dict[str, int]]] = {
    "null": lambda _: {"descriptors": 0},
    "guest addresses for user addresses": lambda guest: {"available": guest.control.addresses.available},
    "behind memory": lambda guest: {
        "used": guest.memory.description.user_address + guest.memory.size,
    },
    "over the end of memory": lambda guest: {
        "descriptors": guest.memory.description.user_address + guest.memory.size - 16,
    },
    "over the end of addresses": lambda _: {"used": 2**64 - 4},
    "askew": lambda guest: {"descriptors": guest.memory.description.user_address + 8},
}


async def start_with(guest: Guest, address: bytes) -> None:
    """As the front-end starts, but for the control queue's address."""
    steps = guest.order.start(guest.setup)
    reply: bytes | None = None
    while True:
        try:
            step = steps.send(reply)
        except StopIteration:
            break
        wrong = step.request is R.SET_VRING_ADDR and step.payload[0] == guest.control.index
        reply = await guest.front_end.request(
            step.request, address if wrong else step.payload, step.descriptors, need_reply=step.need_reply
        )
    await guest.front_end.get_features()


@pytest.mark.parametrize("order", ["qemu", "uml", "crosvm", "qemu-enabled-first"])
@pytest.mark.parametrize("case", OUTSIDE.values(), ids=list(OUTSIDE))
async def test_a_ring_outside_memory_is_named_when_it_should_run(
    rig: Rig, order: str, case: Callable[[Guest], dict[str, int]]
) -> None:
    name = order.removesuffix("-enabled-first")
    async with await rig.connect() as front_end:
        with Guest(rig, front_end, name) as guest:
            await front_end.play(guest.order.connect(guest.setup))
            if name != order:
                for queue in guest.driver.queues:
                    await front_end.set_vring_enable(queue.index, enable=True)
            with pytest.raises(FrontEndError, match="hung up"):
                await start_with(guest, addresses(guest, **case(guest)))
            event = await refused(rig, front_end)
    assert event["request"] == "SET_VRING_ADDR"
    assert "does not lie in one region" in str(event["reason"]) or "aligned" in str(event["reason"])
    await next_is_served(rig)


async def test_a_base_that_no_split_ring_has_is_named(rig: Rig) -> None:
    async with rig.guest("qemu") as guest:
        await guest.start()
        await send(R.SET_VRING_BASE, state(0, 65536))(guest.front_end, Descriptors(Path()))
        event = await refused(rig, guest.front_end)
        assert event["request"] == "SET_VRING_BASE"
        assert "is above 0xffff" in str(event["reason"])
    await next_is_served(rig)


async def test_a_region_outside_the_devices_addresses_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    spec = SimulatorSpec(max_queue_pairs=2, iova_range=IovaRange(0, 2**40 - 1))
    async with Rig.opened(tmp_path, spec) as rig:
        await next_is_served(rig)
        with GuestMemory() as good, GuestMemory(1 << 20, 2**40 - 4096, 1 << 30) as bad:
            for _ in range(2):
                async with talking(rig) as front_end:
                    table = [(good.description, good.fileno()), (bad.description, bad.fileno())]
                    with pytest.raises(FrontEndError, match="hung up"):
                        await front_end.set_mem_table(table)
                    event = await refused(rig, front_end)
                    assert event["request"] == "SET_MEM_TABLE"
                    assert "0xfffffff000" in str(event["reason"])
                rig.log.events.clear()
        await next_is_served(rig)


async def test_a_mapping_that_the_device_refuses_halfway_leaves_nothing(rig: Rig) -> None:
    """As when the kernel may not pin more memory: some of a batch is there, and the batch is open."""
    await next_is_served(rig)
    device_map = rig.device.net.iotlb._map

    def refuse_second(asid: int, request: Any) -> None:
        if request.iova == 0x5000_0000:
            raise ValueError("no more memory can be locked")
        device_map(asid, request)

    rig.device.net.iotlb._map = refuse_second  # type: ignore[method-assign]
    with GuestMemory() as one, GuestMemory(1 << 20, 0x5000_0000, 1 << 30) as two:
        async with talking(rig) as front_end:
            with pytest.raises(FrontEndError, match="hung up"):
                await front_end.set_mem_table(
                    [(one.description, one.fileno()), (two.description, two.fileno())]
                )
            await settled()
            (failed,) = rig.log.of("device.failed")
            assert failed["call"] == "VHOST_IOTLB_UPDATE"
            assert not rig.owner.current.mappings.mapped(0)
            assert not rig.device.net.iotlb._spaces[0].recorded.extents
    # the guest's address is free again
    await next_is_served(rig)
