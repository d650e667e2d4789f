"""The daemon's promises, kept on the kernel's device: isolation under attack, and no moment of identity."""

from __future__ import annotations

import pytest
import trio

from cvqd.errors import UnavailableError
from cvqd.host.vdpa import CharDevice
from cvqd.testing.driver import Segment
from cvqd.testing.net_driver import NET_HEADER_SIZE
from cvqd.wire.net_control import OK, MacAddrSet
from cvqd.wire.virtio import Feature, Status
from relay.test_attack import HEADER, Canaries, shadow_address

MAC = bytes.fromhex("525411abcdef")
OTHER = bytes.fromhex("525411999999")
SET_MAC, SET_OTHER = MacAddrSet(MAC).encode(), MacAddrSet(OTHER).encode()
BROADCAST = b"\xff" * 6
#: seconds after which the kernel's worker is taken to be idle; it tells nobody
IDLE = 0.2


def frame(payload):
    return (BROADCAST + OTHER + b"\x88\xb5" + payload).ljust(60, b"\0")


async def echo(driver, payload):
    driver.send_frame(frame(payload))
    with trio.fail_after(5):
        return await driver.receive_frame() == frame(payload)


WHERE = ("shadow command", "shadow answer", "the daemon's own address of it")


def foreign(daemon, where):
    canaries = Canaries(daemon)
    address = {
        "shadow command": shadow_address(daemon) + canaries.command,
        "shadow answer": shadow_address(daemon) + canaries.answer,
        "the daemon's own address of it": daemon.owner.current.shadow._region.address + canaries.command,
    }[where]
    return canaries, address


@pytest.mark.parametrize("where", WHERE)
async def test_a_transmit_buffer_cannot_show_the_daemons_memory(instance, node, where):
    async with instance(node, mac=MAC) as daemon, daemon.guest() as driver:
        canaries, address = foreign(daemon, where)
        driver.fill()
        own = driver.memory.allocate(64)
        driver.memory.write(own, bytes(NET_HEADER_SIZE) + HEADER)
        head = [Segment(own, NET_HEADER_SIZE + len(HEADER)), Segment(address, 64)]
        driver.transmit[0].add(head)
        driver.transmit[0].notify()
        # the kernel gives back what it cannot read, and nothing comes in
        with trio.fail_after(5):
            await driver.transmit[0].wait()
        assert await echo(driver, b"after the attack")
        assert canaries.intact
        assert await driver.command(SET_OTHER) == OK


@pytest.mark.parametrize("where", WHERE)
async def test_a_receive_buffer_cannot_overwrite_the_daemons_memory(instance, node, where):
    async with instance(node, mac=MAC) as daemon:
        async with daemon.guest() as driver:
            canaries, address = foreign(daemon, where)
            own = driver.memory.allocate(64)
            room = [
                Segment(own, NET_HEADER_SIZE, writable=True),
                Segment(address, 64, writable=True),
            ]
            driver.receive[0].add(room)
            driver.receive[0].notify()
            driver.send_frame(frame(b"overwritten " * 3))
            with trio.move_on_after(IDLE) as stuck:
                await driver.receive[0].wait()
            assert stuck.cancelled_caught
            assert canaries.intact
            # the guest broke its own data queue; its control queue goes on
            assert await driver.command(SET_OTHER) == OK
            assert await daemon.device.get_config(0, 6) == OTHER
            assert canaries.intact
        async with daemon.guest() as driver:
            driver.fill()
            assert await echo(driver, b"after a reset")


@pytest.mark.parametrize("where", WHERE)
async def test_a_command_cannot_be_read_from_the_daemons_memory(instance, node, where):
    async with instance(node, mac=MAC) as daemon, daemon.guest() as driver:
        canaries, address = foreign(daemon, where)
        ack = driver.memory.allocate(1)
        driver.memory.write(ack, b"\xee")
        driver.control.add([Segment(address, 8), Segment(ack, 1, writable=True)])
        driver.control.notify()
        with trio.fail_after(5):
            assert (await driver.control.wait()).written == 0
        assert driver.memory.view(ack, 1)[0] == 0xEE
        assert [event["reason"] for event in daemon.log.of("cvq.chain.malformed")] == ["memory.unmapped"]
        assert await driver.command(SET_OTHER) == OK
        assert canaries.intact


class WatchedDevice(CharDevice):
    """Fails a call after which the device could see this process: DRIVER_OK, and a group on empty memory."""

    def __init__(self, path, fd):
        super().__init__(path, fd)
        self.groups = {0: 0, 1: 0}
        self.looked = 0
        self.running = 0

    async def look(self):
        self.looked += 1
        if await self.get_status() & Status.DRIVER_OK:
            self.running += 1
            for group, asid in self.groups.items():
                assert self._books.mapped(asid), f"group {group} is on address space {asid}, which is empty"

    async def set_status(self, status):
        if not status:
            self.groups = dict.fromkeys(self.groups, 0)
        await super().set_status(status)
        await self.look()

    async def set_group_asid(self, group, asid):
        await super().set_group_asid(group, asid)
        self.groups[group] = asid
        await self.look()

    async def iotlb(self, asid, messages):
        for message in messages:
            await super().iotlb(asid, [message])
            await self.look()


@pytest.mark.parametrize("persist", [True, False], ids=["maps-persist", "maps-are-lost"])
async def test_no_group_is_on_empty_memory_at_any_moment_while_driver_ok_is_set(
    instance, node, monkeypatch, persist
):
    if not persist:
        offered = CharDevice.get_backend_features

        async def without_persist(self):
            return await offered(self) & ~(1 << 8)

        monkeypatch.setattr(WatchedDevice, "get_backend_features", without_persist)
    async with instance(node, mac=MAC, kind=WatchedDevice) as daemon:
        for taken in (None, ~Feature.CTRL_VQ.mask, None):
            async with daemon.guest(taken) as driver:
                if driver.control:
                    assert await driver.command(SET_MAC) == OK
                driver.fill()
                assert await echo(driver, b"once")
        watched = daemon.device
        assert watched.looked > 30
        assert watched.running >= 3, "each start was looked at"


async def test_the_watch_would_see_it(node):
    device = await WatchedDevice.open(node)
    await device.set_features(Feature.ACCESS_PLATFORM.mask)
    with pytest.raises(AssertionError, match="group 0 is on address space 0, which is empty"):
        await device.set_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK)
    await device.aclose()


async def test_a_second_daemon_is_told_that_the_device_is_busy(instance, node):
    async with instance(node):
        with pytest.raises(UnavailableError, match="busy: another process has it open"):
            async with instance(node):
                raise AssertionError
