"""A guest reaches for the shadow queue's memory, and for whatever else is not its own.

Every place it may name an address is tried: buffers that the device reads,
buffers that the device writes, and chains of the control queue, which the
daemon reads and writes.  The same attack on a device that cannot keep the
control queue apart shows what the isolation is worth.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import trio
import yaml

from cvqd.core.limits import Limits
from cvqd.errors import IsolationError
from cvqd.service import take
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import Groups, SimulatorSpec
from cvqd.telemetry.journal import Journal
from cvqd.testing.daemon import simulator_config
from cvqd.testing.driver import GuestMemory, Segment
from cvqd.testing.events import EventRecorder
from cvqd.testing.net_driver import NET_HEADER_SIZE
from cvqd.wire.net_control import MacAddrSet
from cvqd.wire.vhost_user_payloads import RegionDescription
from kit.rig import BROADCAST, MAC_A, MAC_B, Guest, Rig, frame, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET = b"only the daemon and its device may know this"
SINGLE = SimulatorSpec(max_queue_pairs=2, groups=Groups.SINGLE)
#: Ethernet header that every filter lets through
HEADER = BROADCAST + bytes.fromhex("525400ee0001") + b"\x88\xb5"


class Canaries:
    """Fill the slots of the shadow memory that no command of these short stories gets to."""

    FIRST = 16

    def __init__(self, rig: Rig) -> None:
        layout, self._view = rig.owner.current.shadow._layout, rig.owner.current.shadow.view
        assert layout.slots > self.FIRST
        self.command = layout.commands + self.FIRST * layout.short_command
        self.answer = layout.answers + self.FIRST * 64
        self._parts = [(self.command, layout.readable), (self.answer, layout.size)]
        for begin, end in self._parts:
            self._view[begin:end] = (SECRET * ((end - begin) // len(SECRET) + 1))[: end - begin]
        self._before = self._now()

    def _now(self) -> list[bytes]:
        return [bytes(self._view[begin:end]) for begin, end in self._parts]

    @property
    def intact(self) -> bool:
        return self._now() == self._before


def shadow_address(rig: Rig) -> int:
    placed = rig.owner.current.shadow.placed
    assert placed is not None
    return placed[1]


def foreign(rig: Rig, guest: Guest, where: str) -> int:
    """An address of which at least the last of 64 bytes is not the guest's."""
    canaries = Canaries(rig)
    end = guest.memory.guest_address + guest.memory.size
    return {
        "shadow command": shadow_address(rig) + canaries.command,
        "shadow answer": shadow_address(rig) + canaries.answer,
        "shadow ring": shadow_address(rig),
        "the daemon's own address of it": rig.owner.current.shadow._region.address + canaries.command,
        "behind memory": end,
        "straddling the end": end - 32,
        "before memory": guest.memory.guest_address - 32,
        "front-end's address": guest.memory.description.user_address,
        "null": 0,
        "wrapping": 2**64 - 32,
    }[where]


WHERE = (
    "shadow command",
    "shadow answer",
    "shadow ring",
    "the daemon's own address of it",
    "behind memory",
    "straddling the end",
    "before memory",
    "front-end's address",
    "null",
    "wrapping",
)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig.opened(tmp_path) as rig:
        yield rig


@pytest.fixture
async def guest(rig: Rig) -> AsyncIterator[Guest]:
    async with rig.guest() as guest:
        await guest.start()
        yield guest


async def transmit_from(guest: Guest, address: int, length: int = 64) -> None:
    """Send a broadcast frame whose content the device is to fetch from ``address``."""
    memory, queue = guest.memory, guest.driver.transmit[0]
    own = memory.allocate(64)
    memory.write(own, bytes(NET_HEADER_SIZE) + HEADER)
    queue.add([Segment(own, NET_HEADER_SIZE + len(HEADER)), Segment(address, length)])
    queue.notify()
    await settled()
    assert queue.poll() is not None, "given back, whatever became of it"


def receive_into(guest: Guest, address: int, length: int = 64) -> None:
    """Post one receive buffer: room for the virtio header in guest memory, for the frame at ``address``."""
    queue = guest.driver.receive[0]
    own = guest.memory.allocate(64)
    queue.add([Segment(own, NET_HEADER_SIZE, writable=True), Segment(address, length, writable=True)])
    queue.notify()


async def still_works(rig: Rig, guest: Guest) -> None:
    """Control and data, one command each."""
    await guest.set_mac(MAC_B)
    assert await guest.echo(frame(MAC_B))
    assert not rig.log.of("cvq.broken")


@pytest.mark.parametrize("where", WHERE)
async def test_a_transmit_buffer_cannot_show_foreign_memory(rig: Rig, guest: Guest, where: str) -> None:
    canaries = Canaries(rig)
    guest.driver.fill()
    await transmit_from(guest, foreign(rig, guest, where))
    assert rig.device.statistics.iotlb_faults[1] == 1
    assert rig.device.statistics.drops["tx.chain"] == 1
    (refused,) = rig.log.of("simulator.access.refused")
    assert (refused["queue"], refused["reason"]) == (1, "memory.unmapped")
    assert guest.driver.received_frames() == []
    assert SECRET not in bytes(guest.memory.view(guest.memory.guest_address, guest.memory.size))
    await still_works(rig, guest)
    assert canaries.intact


@pytest.mark.parametrize("where", WHERE)
async def test_a_receive_buffer_cannot_overwrite_foreign_memory(rig: Rig, guest: Guest, where: str) -> None:
    canaries = Canaries(rig)
    receive_into(guest, foreign(rig, guest, where))
    guest.driver.send_frame(frame(BROADCAST, b"overwritten " * 4))
    await settled()
    assert rig.device.statistics.iotlb_faults[0] == 1
    assert rig.device.statistics.drops["rx.chain"] == 1
    assert rig.log.of("simulator.access.refused")[0]["reason"] == "memory.unmapped"
    assert canaries.intact
    used = guest.driver.receive[0].poll()
    assert used is not None
    assert used.written == 0
    guest.driver.fill()
    await still_works(rig, guest)
    assert canaries.intact


@pytest.mark.parametrize("where", WHERE)
async def test_a_command_cannot_be_read_from_foreign_memory(rig: Rig, guest: Guest, where: str) -> None:
    canaries = Canaries(rig)
    own = guest.memory.allocate(16)
    guest.memory.write(own, b"\x01\x01" + bytes(6) + b"\xee")
    guest.control.add(
        [Segment(own, 2), Segment(foreign(rig, guest, where), 64), Segment(own + 8, 1, writable=True)]
    )
    guest.control.notify()
    used = await guest.control.wait()
    # the chain ends for us where it leaves memory: the byte for the answer lies behind that
    assert used.written == 0
    assert guest.memory.view(own + 8, 1)[0] == 0xEE
    assert rig.counters["chains_malformed"] == rig.counters["memory.unmapped"] == 1
    assert [event["reason"] for event in rig.log.of("cvq.chain.malformed")] == ["memory.unmapped"]
    assert rig.device.statistics.cvq_requests == 0
    guest.driver.fill()
    await still_works(rig, guest)
    assert canaries.intact


@pytest.mark.parametrize("where", WHERE)
async def test_an_answer_cannot_be_written_to_foreign_memory(rig: Rig, guest: Guest, where: str) -> None:
    canaries = Canaries(rig)
    own = guest.memory.allocate(16)
    guest.memory.write(own, MacAddrSet(MAC_A).encode())
    guest.control.add([Segment(own, 8), Segment(foreign(rig, guest, where), 64, writable=True)])
    guest.control.notify()
    used = await guest.control.wait()
    assert used.written == 0
    assert rig.counters["chains_malformed"] == rig.counters["memory.unmapped"] == 1
    assert rig.log.of("cvq.chain.malformed")[0]["reason"] == "memory.unmapped"
    assert rig.device.net.control.state.mac != MAC_A
    guest.driver.fill()
    await still_works(rig, guest)
    assert canaries.intact


async def test_memory_at_the_shadow_queues_address_is_the_guests_own(rig: Rig) -> None:
    """The same number in the other address space names other bytes."""
    async with rig.guest() as first:
        await first.start()
        address = shadow_address(rig)
    own = GuestMemory(size=rig.owner.current.shadow.size, guest_address=address)
    async with rig.guest(memory=own) as guest:
        await guest.start()
        canaries = Canaries(rig)
        assert shadow_address(rig) == address
        guest.driver.fill(buffers=8)
        here = guest.memory.allocate(64)
        guest.memory.write(here, b"mine" * 16)
        await transmit_from(guest, here)
        (received,) = guest.driver.received_frames()
        assert received == HEADER + b"mine" * 16
        await still_works(rig, guest)
        assert canaries.intact


# what isolation prevents


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig.opened(tmp_path, SINGLE, require_isolation=False) as rig:
        yield rig


async def test_in_a_shared_address_space_the_guest_reads_the_shadow_memory(shared: Rig) -> None:
    async with shared.guest() as guest:
        await guest.start()
        canaries = Canaries(shared)
        assert shared.status["isolation"]["verdict"] == "shared"
        assert "shares group 0" in str(shared.log.of("isolation.shared")[0]["reason"])
        guest.driver.fill()
        await transmit_from(guest, shadow_address(shared) + canaries.command)
        (stolen,) = guest.driver.received_frames()
        assert SECRET in stolen


async def test_in_a_shared_address_space_the_guest_overwrites_answers_but_no_command(shared: Rig) -> None:
    async with shared.guest() as guest:
        await guest.start()
        canaries = Canaries(shared)
        receive_into(guest, shadow_address(shared) + canaries.command)
        guest.driver.send_frame(frame(BROADCAST))
        await settled()
        assert canaries.intact, "commands are mapped for reading only"
        assert shared.log.of("simulator.access.refused")[0]["reason"] == "memory.permission"
        receive_into(guest, shadow_address(shared) + canaries.answer)
        guest.driver.send_frame(frame(BROADCAST))
        await settled()
        assert not canaries.intact


async def test_in_a_shared_address_space_the_daemon_still_reads_only_guest_memory(shared: Rig) -> None:
    async with shared.guest() as guest:
        await guest.start()
        canaries = Canaries(shared)
        own = guest.memory.allocate(16)
        guest.memory.write(own, MacAddrSet(MAC_A).encode())
        answer = shadow_address(shared) + canaries.answer
        guest.control.add([Segment(own, 8), Segment(answer, 64, writable=True)])
        guest.control.notify()
        assert (await guest.control.wait()).written == 0
        assert shared.counters["memory.unmapped"] == 1
        assert canaries.intact


async def test_in_a_shared_address_space_the_shadow_memory_makes_way_for_a_region(shared: Rig) -> None:
    async with shared.guest() as guest:
        await guest.start()
        await guest.set_mac(MAC_A)
        before = shadow_address(shared)
        with GuestMemory(size=1 << 20, guest_address=before & ~0xFFFFF, user_address=0x10_0000_0000) as more:
            await guest.front_end.add_mem_reg(RegionDescription(*more.description), more.fileno())
            after = shadow_address(shared)
            assert not (after < more.guest_address + more.size and more.guest_address < after + 4096)
            assert shared.owner.state.mac == MAC_A
            assert shared.device.net.control.state.mac == MAC_A
            await guest.set_mac(MAC_B)


# refusal


async def test_require_refuses_a_device_that_cannot_isolate(nursery: trio.Nursery) -> None:
    log = EventRecorder()
    device = await SimulatedDevice.open(SINGLE, log, nursery)
    with pytest.raises(IsolationError, match="shares group 0 with queues 0, 1, 2, 3"):
        await take(device, Limits(require_isolation=True, deadline=1, max_command=256), log, Journal(log))
    (refused,) = log.of("isolation.refused")
    assert refused["queue"] == 4
    await device.aclose()


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"groups": "single"}, "shares group 0"),
        ({"address_spaces": 1}, "the device has 1 address space, two are needed"),
    ],
)
async def test_a_daemon_that_cannot_isolate_exits_78_and_says_why(
    tmp_path: Path, shape: dict[str, object], reason: str
) -> None:
    path = tmp_path / "vm0.yaml"
    path.write_text(yaml.safe_dump(simulator_config(tmp_path, **shape)))
    with trio.fail_after(30):
        ended = await trio.run_process(
            [sys.executable, "-m", "cvqd", "run", "--config", str(path)], capture_stderr=True, check=False
        )
    assert ended.returncode == 78
    assert reason.encode() in ended.stderr
    assert b'"isolation.refused"' in ended.stderr
    assert not (tmp_path / "vm0.sock").exists()
