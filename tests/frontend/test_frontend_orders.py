"""The orders of four front-ends, end to end: start, stop, start again, reconnect, memory that moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cvqd.host.doorbell import Doorbell
from cvqd.simulator.spec import DEFAULT_MAC, SUPPORTED_BACKEND_FEATURES, Groups, SimulatorSpec
from cvqd.testing.driver import GuestMemory, Segment
from cvqd.testing.sequences import ORDERS
from cvqd.testing.steps import GuestSetup
from cvqd.wire import net_config
from cvqd.wire.net_control import AnnounceAck, MacAddrSet, RxMode, RxModeSet, VlanAdd, VqPairsSet
from cvqd.wire.vhost_user import BackRequest, DescriptorKind
from cvqd.wire.vhost_user_payloads import RegionDescription
from cvqd.wire.vhost_vdpa import Backend
from cvqd.wire.virtio import Feature, Status
from kit.rig import (
    BROADCAST,
    KEEPERS,
    MAC_A,
    MAC_B,
    Guest,
    Rig,
    frame,
    jumping_clock,
    open_descriptors,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONTROLLED = sorted(set(ORDERS) - KEEPERS)
STATION = bytes.fromhex("525400dd0001")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig.opened(tmp_path) as rig:
        yield rig


async def change_everything(guest: Guest) -> None:
    """MAC, pairs, a VLAN, no promiscuity."""
    for command in (
        MacAddrSet(MAC_A),
        VqPairsSet(2),
        RxModeSet(RxMode.PROMISC, 0),
        VlanAdd(5),
    ):
        assert await guest.command(command.encode()) == 0


async def filters_show_it(guest: Guest) -> None:
    """What ``change_everything`` means for frames."""
    guest.driver.fill(0)
    guest.driver.fill(1)
    assert await guest.echo(frame(MAC_A))
    assert await guest.echo(frame(MAC_A), pair=1)
    assert await guest.echo(frame(MAC_A, vlan=5))
    assert not await guest.echo(frame(MAC_A, vlan=6))
    assert not await guest.echo(frame(STATION))


@pytest.mark.parametrize("order", CONTROLLED)
async def test_the_device_starts_obeys_stops_and_starts_again(rig: Rig, order: str) -> None:
    async with rig.guest(order) as guest:
        assert not rig.owner.running
        await guest.start()
        assert rig.owner.running == {0, 1, 2, 3, 4}
        await change_everything(guest)
        await filters_show_it(guest)
        await guest.stop()
        assert not rig.device.net.negotiation.driver_ok
        assert len(rig.log.of("device.started")) == len(rig.log.of("device.stopped")) == 1

        guest.driver.restart()
        await guest.start()
        # a driver that starts over finds a device that does
        assert rig.owner.state.mac == rig.device.net.control.state.mac == DEFAULT_MAC
        assert rig.owner.state.pairs == 1
        await change_everything(guest)
        await filters_show_it(guest)
    assert not rig.backend.connected
    assert not rig.owner.running


async def test_qemus_network_device_keeps_the_control_queue_and_runs_the_data(rig: Rig) -> None:
    async with rig.guest("qemu-net") as guest:
        await guest.start()
        assert rig.owner.running == {0, 1, 2, 3}
        guest.driver.fill()
        assert await guest.echo(frame(DEFAULT_MAC))
        await guest.stop()
        guest.driver.restart()
        await guest.start()
        guest.driver.fill()
        assert await guest.echo(frame(BROADCAST))


@pytest.mark.parametrize("order", CONTROLLED)
async def test_a_driver_that_is_loaded_again_finds_the_devices_own_address(rig: Rig, order: str) -> None:
    async with rig.guest(order) as guest:
        await guest.start()
        await guest.set_mac(MAC_A)
        await guest.stop()
        assert (await guest.front_end.get_config(0, 6)) == DEFAULT_MAC
        guest.driver.restart()
        await guest.start()
        assert (await guest.front_end.get_config(0, 6)) == DEFAULT_MAC
        assert rig.owner.state.digest() == rig.log.of("state.reset")[0]["digest"]
        assert rig.log.of("state.reset")[0]["reason"] == "the service started"
        assert not rig.log.of("state.replayed")
        await guest.set_mac(MAC_B)


async def test_a_configured_address_is_every_drivers_first(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, mac=STATION) as rig, rig.guest("uml") as guest:
        for _ in range(2):
            assert (await guest.front_end.get_config(0, 6)) == STATION
            await guest.start()
            assert rig.device.net.control.state.mac == STATION
            await guest.set_mac(MAC_A)
            await guest.stop()
            guest.driver.restart()


@pytest.mark.parametrize("kind", [DescriptorKind.EVENTFD, DescriptorKind.SOCKET, DescriptorKind.PIPE])
async def test_a_driver_that_is_loaded_again_with_new_call_descriptors_hears_them(
    rig: Rig, kind: DescriptorKind
) -> None:
    """Calls of data rings that are no eventfds pass through the daemon: this driver's, not the last one's."""
    async with rig.guest("uml", call_kind=kind) as first:
        await first.start()
        first.driver.fill()
        first.driver.send_frame(frame(BROADCAST))
        assert await first.driver.receive_frame() == frame(BROADCAST)
        await first.stop()
        memory = GuestMemory()
        before = open_descriptors()
        with Guest(rig, first.front_end, "uml", call_kind=kind, memory=memory) as again:
            await again.start()
            again.driver.fill()
            for _ in range(3):
                again.driver.send_frame(frame(BROADCAST))
                assert await again.driver.receive_frame() == frame(BROADCAST)
            assert await again.command(MacAddrSet(MAC_A).encode()) == 0
            assert rig.backend.bridged == (set() if kind is DescriptorKind.EVENTFD else {0, 1, 2, 3})
            # nobody listens to the first driver's any more
            for queue in first.driver.queues:
                queue.drain_call()
            again.driver.send_frame(frame(BROADCAST))
            await again.driver.receive_frame()
            assert not any(queue.drain_call() for queue in first.driver.queues)
            await again.stop()
        await settled()
        assert open_descriptors() <= before


async def test_a_kick_that_nobody_saw_before_its_descriptor_was_replaced_is_not_lost(rig: Rig) -> None:
    async with rig.guest() as guest:
        await guest.start()
        await settled()
        run = rig.owner.run
        assert run is not None
        assert run.guest_cvq is not None
        with Doorbell() as other:
            head = guest.driver.post_command(MacAddrSet(MAC_A).encode())
            guest.control.notify()
            # as in the step in which both arrive: the relay had no turn between them
            run.rebind(replace(run.guest_cvq, kick=other.fileno()))
            await settled()
            used = guest.control.poll()
            assert used is not None
            assert used.head == head
            assert guest.driver.take_ack(head) == 0
            run.rebind(replace(run.guest_cvq, kick=guest.control.kick))


async def test_status_starts_and_stops_the_device(rig: Rig) -> None:
    """Only DRIVER_OK starts it, however complete the rings are; 0 stops it."""
    async with rig.guest("qemu") as guest:
        steps = guest.order.start(guest.setup)
        reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration:
                break
            assert not rig.owner.running
            reply = await guest.front_end.request(step.request, step.payload, step.descriptors)
        assert rig.owner.running
        await guest.set_mac(MAC_A)
        await guest.front_end.set_status(0)
        assert not rig.owner.running
        assert (await guest.front_end.get_config(0, 6)) == DEFAULT_MAC
        await guest.front_end.set_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
        assert not rig.owner.running
        guest.driver.restart()
        await guest.front_end.set_status(0x0F)
        assert rig.owner.running
        assert rig.log.of("state.reset")[-1]["reason"] == "every ring is initial"


async def test_a_guest_that_qemu_pauses_goes_on_where_it_was(rig: Rig) -> None:
    """``stop`` and ``cont`` of its monitor say SET_STATUS 0 as a reset of the driver's does."""
    async with rig.guest("qemu") as guest:
        await guest.start()
        await change_everything(guest)
        digest = rig.owner.state.digest()
        await guest.stop()
        await guest.start()
        assert rig.owner.state.digest() == digest
        await filters_show_it(guest)
        await guest.stop()
        guest.driver.restart()
        await guest.start()
        assert rig.owner.state.mac == DEFAULT_MAC
        assert rig.log.of("state.reset")[-1]["reason"] == "every ring is initial"


async def test_reset_device_ends_the_drivers_life(rig: Rig) -> None:
    async with rig.guest("qemu") as guest:
        await guest.start()
        await guest.set_mac(MAC_A)
        await guest.front_end.reset_device()
        assert not rig.owner.running
        assert rig.log.of("device.stopped")[-1]["reason"] == "RESET_DEVICE"
        assert (await guest.front_end.get_config(0, 6)) == DEFAULT_MAC


@pytest.mark.parametrize("order", ["qemu", "crosvm"])
async def test_a_guest_that_goes_on_after_a_reconnection_finds_its_state(rig: Rig, order: str) -> None:
    memory = GuestMemory()
    async with rig.guest(order, memory=memory) as guest:
        await guest.start()
        await change_everything(guest)
        digest = rig.owner.state.digest()
        driver = guest.driver
        # the front-end's end of the connection only; the guest lives on
        guest.front_end.close()
        await settled()
        assert rig.log.of("frontend.disconnected")[-1]["reason"] == "the front-end closed the connection"
        assert not rig.owner.running
        async with guest.behind(rig) as back:
            await back.start()
            (replayed,) = rig.log.of("state.replayed")
            assert replayed["digest"] == rig.owner.state.digest() == digest
            assert len(rig.log.of("state.reset")) == 1
            assert rig.device.net.control.state.pairs == 2
            assert (await back.front_end.get_config(0, 6)) == MAC_A
            await filters_show_it(back)
            await back.set_mac(MAC_B)
            assert driver is back.driver


async def test_get_vring_base_is_where_the_device_stood(rig: Rig) -> None:
    async with rig.guest("crosvm") as guest:
        await guest.start()
        guest.driver.fill(buffers=32)
        for _ in range(3):
            await guest.set_mac(MAC_A)
        for _ in range(5):
            assert await guest.echo(frame(BROADCAST))
        bases = [await guest.front_end.get_vring_base(index) for index in range(5)]
        assert bases == [5, 5, 0, 0, 3]
        assert not rig.owner.running


async def test_a_ring_that_is_changed_while_it_runs_is_taken_in_anew(rig: Rig) -> None:
    async with rig.guest("qemu") as guest:
        await guest.start()
        guest.driver.fill(buffers=32)
        assert await guest.echo(frame(BROADCAST))
        await guest.front_end.set_vring_num(0, guest.driver.queues[0].num)
        assert rig.log.of("device.stopped")[-1]["reason"] == "SET_VRING_NUM changes ring 0"
        assert rig.owner.running == frozenset(range(5))
        assert await guest.echo(frame(BROADCAST))


async def test_shadow_memory_among_the_guests_moves_for_a_region(tmp_path: Path) -> None:
    spec = SimulatorSpec(max_queue_pairs=2, address_spaces=1)
    async with Rig.opened(tmp_path, spec, require_isolation=False) as rig, rig.guest("qemu") as guest:
        await guest.start()
        await guest.set_mac(MAC_A)
        asid, before = rig.owner.current.shadow.placed or (-1, 0)
        assert asid == 0
        with GuestMemory(4096, before, 0x6000_0000_0000) as more:
            await guest.front_end.add_mem_reg(more.description, more.fileno())
            assert rig.log.of("device.stopped")[-1]["reason"] == "ADD_MEM_REG moves its memory"
            asid, now = rig.owner.current.shadow.placed or (-1, 0)
            assert (asid, now + rig.owner.current.shadow.size <= before) == (0, True)
            assert rig.owner.running
            await guest.set_mac(MAC_B)


def watched(rig: Rig) -> int:
    """Idle kicks that are listened to."""
    return Path(f"/proc/self/fdinfo/{rig.backend._kicks._epoll.fileno()}").read_text().count("tfd:")


async def test_nobody_listens_to_a_kick_whose_front_end_has_left(rig: Rig) -> None:
    """It lives on at the other end: closing our number for it does not end that."""
    async with rig.guest("qemu") as guest:
        await guest.front_end.set_vring_kick(0, guest.driver.queues[0].kick)
        assert watched(rig) == 1
        guest.front_end.close()
        await settled()
        assert watched(rig) == 0


async def test_a_ring_that_is_stopped_has_nobody_standing_in_for_its_call(rig: Rig) -> None:
    """Its descriptor is closed with the reply and the number is soon another's."""
    async with rig.guest("crosvm", call_kind=DescriptorKind.SOCKET) as guest:
        await guest.start()
        assert rig.backend.bridged == {0, 1, 2, 3}
        for index in range(4):
            await guest.front_end.get_vring_base(index)
            assert rig.backend.bridged == set(range(index + 1, 4))


async def test_a_device_that_cannot_suspend_goes_on_from_its_used_index(tmp_path: Path) -> None:
    spec = SimulatorSpec(
        max_queue_pairs=2,
        backend_features=SUPPORTED_BACKEND_FEATURES & ~Backend.SUSPEND.mask & ~Backend.IOTLB_PERSIST.mask,
    )
    async with Rig.opened(tmp_path, spec) as rig, rig.guest("crosvm") as guest:
        await guest.start()
        guest.driver.fill(buffers=32)
        await guest.set_mac(MAC_A)
        for _ in range(5):
            assert await guest.echo(frame(BROADCAST))
        bases = [await guest.front_end.get_vring_base(index) for index in range(5)]
        assert bases == [5, 5, 0, 0, 1]
        assert rig.log.of("device.stopped")[-1]["how"] == "reset"


async def test_a_region_added_while_running_is_mapped_and_nothing_else_is_touched(rig: Rig) -> None:
    async with rig.guest("qemu") as guest:
        await guest.start()
        await change_everything(guest)
        started = len(rig.log.of("device.started"))
        with GuestMemory(1 << 20, 0x8000_0000, 0x6000_0000_0000, mmap_offset=4096) as more:
            await guest.front_end.add_mem_reg(more.description, more.fileno())
            assert {key: rig.log.of("memory.mapped")[-1][key] for key in ("regions", "added", "removed")} == {
                "regions": 2,
                "added": 1,
                "removed": 0,
            }
            assert len(rig.log.of("device.started")) == started, "no restart"
            # the device and the daemon both reach it
            command = more.allocate(16)
            more.write(command, MacAddrSet(MAC_B).encode())
            guest.control.add([Segment(command, 8), Segment(command + 8, 1, writable=True)])
            guest.control.notify()
            assert (await guest.control.wait()).written == 1
            assert rig.owner.state.mac == MAC_B
            packet = more.allocate(128)
            more.write(packet, bytes(12) + frame(MAC_B))
            guest.driver.fill()
            guest.driver.transmit[0].add([Segment(packet, 12 + len(frame(MAC_B)))])
            guest.driver.transmit[0].notify()
            await settled()
            assert guest.driver.received_frames() == [frame(MAC_B)]

            await guest.front_end.rem_mem_reg(more.description)
            assert rig.log.of("memory.mapped")[-1]["removed"] == 1
            assert len(rig.log.of("device.started")) == started
            guest.driver.transmit[0].poll()
            guest.driver.transmit[0].add([Segment(packet, 64)])
            guest.driver.transmit[0].notify()
            await settled()
            assert rig.device.statistics.iotlb_faults[1] == 1
        await guest.set_mac(MAC_A)


async def test_a_memory_table_that_is_sent_again_leaves_known_regions_alone(rig: Rig) -> None:
    async with rig.guest("uml") as guest:
        await guest.start()
        await guest.set_mac(MAC_A)
        known = (guest.memory.description, guest.memory.fileno())
        with GuestMemory(1 << 20, 0x8000_0000, 0x6000_0000_0000) as more:
            for table, added, removed in (
                ([known, (more.description, more.fileno())], 1, 0),
                ([(more.description, more.fileno()), known], 0, 0),
                ([known], 0, 1),
            ):
                await guest.front_end.set_mem_table(table)
                mapped = rig.log.of("memory.mapped")[-1]
                assert (mapped["added"], mapped["removed"]) == (added, removed)
        assert len(rig.log.of("device.started")) == 1
        await guest.set_mac(MAC_B)


@pytest.mark.parametrize("order", CONTROLLED)
async def test_memory_under_the_rings_that_goes_and_comes_back_costs_a_restart(rig: Rig, order: str) -> None:
    """The regions are told apart by their file: the same bytes through another one are other memory."""
    async with rig.guest(order) as guest:
        await guest.start()
        await change_everything(guest)
        begin, size, user, _ = guest.memory.description
        half = size // 2
        split = [
            (RegionDescription(begin, half, user, 0), guest.memory.fileno()),
            (RegionDescription(begin + half, half, user + half, half), guest.memory.fileno()),
        ]
        await guest.front_end.set_mem_table(split)
        assert await guest.front_end.get_features()
        assert rig.owner.running
        assert len(rig.log.of("device.started")) == 2
        assert len(rig.log.of("state.replayed")) == 1
        await filters_show_it(guest)
        await guest.set_mac(MAC_B)


async def test_rings_that_come_one_pair_at_a_time_are_taken_in(rig: Rig) -> None:
    """A front-end that leaves rings out starts at its guest's first kick; what comes later joins."""
    async with rig.guest("crosvm") as guest:
        whole = guest.setup
        part = GuestSetup(whole.features, whole.memory, (*whole.rings[:2], whole.rings[4]))
        await guest.front_end.play(guest.order.start(part))
        await guest.front_end.get_features()
        assert not rig.owner.running
        guest.driver.fill()
        await settled()
        assert rig.owner.running == {0, 1, 4}
        assert await guest.echo(frame(BROADCAST))
        await guest.set_mac(MAC_A)
        rest = GuestSetup(whole.features, whole.memory, whole.rings[2:4])
        for step in guest.order.start(rest):
            if step.request.name.startswith("SET_VRING"):
                await guest.front_end.request(step.request, step.payload, step.descriptors)
        await guest.front_end.get_features()
        assert rig.owner.running == {0, 1, 2, 3, 4}
        assert rig.device.net.control.state.mac == MAC_A
        assert await guest.command(VqPairsSet(2).encode()) == 0
        guest.driver.fill(1)
        assert await guest.echo(frame(BROADCAST), pair=1)
        assert await guest.echo(frame(BROADCAST), pair=0)


async def test_a_partial_guest_whose_memory_moved_starts_again_at_its_next_kick(rig: Rig) -> None:
    async with rig.guest("crosvm") as guest:
        whole = guest.setup
        part = GuestSetup(whole.features, whole.memory, (*whole.rings[:2], whole.rings[4]))
        await guest.front_end.play(guest.order.start(part))
        guest.control.notify()
        await settled()
        assert rig.owner.running == {0, 1, 4}
        await guest.set_mac(MAC_A)
        begin, size, user, _ = guest.memory.description
        halves = [
            (RegionDescription(begin, size // 2, user, 0), guest.memory.fileno()),
            (
                RegionDescription(begin + size // 2, size // 2, user + size // 2, size // 2),
                guest.memory.fileno(),
            ),
        ]
        await guest.front_end.set_mem_table(halves)
        await guest.front_end.get_features()
        assert len(rig.log.of("device.stopped")) == 1
        await guest.set_mac(MAC_B)


@pytest.mark.parametrize("pipe", [False, True])
async def test_a_pulled_cable_reaches_the_front_end(rig: Rig, *, pipe: bool) -> None:
    async with rig.guest("uml") as guest:
        await guest.front_end.open_channel(pipe=pipe)
        await guest.start()
        for up in (False, True):
            rig.device.set_link(up=up)
            assert await guest.front_end.backend_request() is BackRequest.CONFIG_CHANGE_MSG
            config = net_config.decode(await guest.front_end.get_config(0, 24))
            assert config.status == int(up)


async def test_an_announcement_is_asked_for_and_over_when_it_is_acknowledged(rig: Rig) -> None:
    async with rig.guest("uml") as guest:
        await guest.front_end.open_channel()
        await guest.start()
        rig.device.announce()
        assert await guest.front_end.backend_request() is BackRequest.CONFIG_CHANGE_MSG
        assert net_config.decode(await guest.front_end.get_config(0, 24)).status == 3
        assert await guest.command(AnnounceAck().encode()) == 0
        assert net_config.decode(await guest.front_end.get_config(0, 24)).status == 1
        assert await guest.command(AnnounceAck().encode()) == 1


async def test_a_guest_without_a_control_queue_is_served(rig: Rig) -> None:
    data = rig.features & ~(
        Feature.CTRL_VQ.mask
        | Feature.CTRL_RX.mask
        | Feature.CTRL_RX_EXTRA.mask
        | Feature.CTRL_VLAN.mask
        | Feature.CTRL_MAC_ADDR.mask
        | Feature.MQ.mask
        | Feature.GUEST_ANNOUNCE.mask
    )
    async with rig.guest("uml", features=data) as guest:
        whole = guest.setup
        two = GuestSetup(whole.features, whole.memory, whole.rings[:2])
        await guest.front_end.play(guest.order.start(two))
        assert rig.owner.running == {0, 1}
        guest.driver.fill()
        assert await guest.echo(frame(DEFAULT_MAC))


async def test_a_guest_that_declines_mq_has_its_control_queue_at_2_and_the_device_at_4(rig: Rig) -> None:
    async with rig.guest("uml", features=rig.features & ~Feature.MQ.mask) as guest:
        await guest.start()
        assert rig.owner.running == {0, 1, 2}
        assert rig.owner.current.isolation.cvq is not None
        assert rig.owner.current.isolation.cvq.index == 4
        await guest.set_mac(MAC_A)
        assert await guest.command(VqPairsSet(2).encode()) == 1


async def test_groups_per_queue_are_isolated_too(tmp_path: Path) -> None:
    spec = SimulatorSpec(max_queue_pairs=8, groups=Groups.PER_QUEUE)
    async with Rig.opened(tmp_path, spec) as rig, rig.guest("uml", num=64) as guest:
        await guest.start()
        assert len(rig.owner.running) == 17
        await change_everything(guest)
        await filters_show_it(guest)


@jumping_clock
async def test_front_ends_wait_their_turn(rig: Rig) -> None:
    async with rig.guest("uml") as first:
        await first.start()
        async with await rig.connect() as second:
            await second.send_raw(b"\x01\0\0\0\x01\0\0\0\0\0\0\0")
            await settled()
            assert len(rig.log.of("frontend.connected")) == 1
            first.front_end.close()
            await second.receive_reply(1)
            assert len(rig.log.of("frontend.connected")) == 2
