"""A simulated device on a tap interface of the host."""

from __future__ import annotations

import errno
import socket

import pytest
import trio

from cvqd.errors import DeviceError
from cvqd.simulator.spec import TapPath
from cvqd.simulator.tap import Tap
from cvqd.wire.net_control import OK, RxMode, RxModeSet
from kit.own_network import TAP, ip, own_network, wait_until_up

OWN = bytes.fromhex("525400000c01")
HOST = bytes.fromhex("525400000c02")
ETHERTYPE = 0x88B5
BROADCAST = b"\xff" * 6

needs_tap = pytest.mark.tap


@pytest.fixture
def network():
    with own_network():
        yield


@pytest.fixture
def host(network):  # noqa: ARG001 -- inside it
    """The host's end of the interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE)) as link:
        link.bind((TAP, ETHERTYPE))
        link.settimeout(5)
        yield link


def frame(destination: bytes, source: bytes) -> bytes:
    return (destination + source + ETHERTYPE.to_bytes(2, "big")).ljust(60, b".")


async def arrives(driver, count: int = 1) -> list[bytes]:
    frames: list[bytes] = []
    with trio.fail_after(5):
        while len(frames) < count:
            await driver.receive[0].called()
            frames += driver.received()
    return [found for found in frames if found[12:14] == ETHERTYPE.to_bytes(2, "big")]


@needs_tap
async def test_frames_cross_between_the_device_and_the_host(host, drive):
    driver = await drive(mac=OWN, datapath=TapPath(TAP))
    wait_until_up()
    driver.fill()
    await driver.send(frame(BROADCAST, OWN))
    assert host.recv(2048) == frame(BROADCAST, OWN)
    assert await driver.command(RxModeSet(RxMode.PROMISC, 0).encode()) == OK
    host.send(frame(HOST, HOST))
    host.send(frame(OWN, HOST))
    assert await arrives(driver) == [frame(OWN, HOST)], "the device filters what the host sends"


@needs_tap
async def test_many_frames_in_one_go_all_arrive(host, drive):
    driver = await drive(mac=OWN, datapath=TapPath(TAP))
    wait_until_up()
    driver.fill(buffers=40)
    sent = [frame(OWN, HOST[:5] + bytes((number,))) for number in range(40)]
    for each in sent:
        host.send(each)
    assert await arrives(driver, 40) == sent


@needs_tap
@pytest.mark.usefixtures("network")
async def test_an_interface_that_is_down_or_deleted_loses_frames_and_nothing_else(drive):
    driver = await drive(mac=OWN, datapath=TapPath(TAP))
    ip(f"link set dev {TAP} down")
    await driver.send(frame(BROADCAST, OWN))
    assert driver.device.statistics.drops["tap.down"] == 1
    ip(f"link delete dev {TAP}")
    await driver.send(frame(BROADCAST, OWN))
    assert driver.device.statistics.drops["tap.gone"] == 1
    assert await driver.command(RxModeSet(RxMode.PROMISC, 0).encode()) == OK


@needs_tap
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("interface", "number", "reason"),
    [("lo", errno.EINVAL, "is not a tap interface"), (TAP, errno.EBUSY, "another process has the interface")],
)
async def test_an_interface_that_cannot_be_had_says_why(simulate, interface, number, reason):
    with Tap(TapPath(TAP)), pytest.raises(DeviceError, match=reason) as refused:
        await simulate(datapath=TapPath(interface))
    assert (refused.value.call, refused.value.errno) == ("TUNSETIFF", number)


@needs_tap
@pytest.mark.usefixtures("network")
async def test_closing_the_device_gives_the_interface_back(simulate):
    device = await simulate(datapath=TapPath(TAP))
    await device.aclose()
    with Tap(TapPath(TAP)):
        pass


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", "a:b", "a b", "tap%d", ".", ".."])
def test_a_name_that_no_interface_has_is_refused(name):
    with pytest.raises(ValueError, match=r"^interface: "):
        TapPath(name)
