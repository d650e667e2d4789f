"""Two simulators joined by a cable of Unix datagrams."""

from __future__ import annotations

import errno
import socket
import stat

import pytest
import trio
import trio.testing

from cvqd.errors import DeviceError
from cvqd.simulator.peer import steer
from cvqd.simulator.spec import PeerPath
from cvqd.wire.net_control import OK, RxMode, RxModeSet, VqPairsSet

BROADCAST = b"\xff" * 6
LEFT = bytes.fromhex("525400000a01")
RIGHT = bytes.fromhex("525400000a02")


def frame(destination: bytes, source: bytes = LEFT) -> bytes:
    return (destination + source + b"\x88\xb5").ljust(60, b".")


@pytest.fixture
def ends(tmp_path):
    left, right = str(tmp_path / "left"), str(tmp_path / "right")
    return PeerPath(left, right), PeerPath(right, left)


async def arrives(driver, pair: int = 0) -> bytes:
    await driver.receive[pair].called()
    (received,) = driver.received(pair)
    return received


async def test_frames_cross_in_both_directions(drive, ends):
    left = await drive(mac=LEFT, datapath=ends[0])
    right = await drive(mac=RIGHT, datapath=ends[1])
    left.fill()
    right.fill()
    await left.send(frame(BROADCAST))
    assert await arrives(right) == frame(BROADCAST)
    await right.send(frame(LEFT, RIGHT))
    assert await arrives(left) == frame(LEFT, RIGHT)
    assert left.received() == []


async def test_the_receiver_s_filter_decides(drive, ends):
    left = await drive(mac=LEFT, datapath=ends[0])
    right = await drive(mac=RIGHT, datapath=ends[1])
    right.fill()
    assert await right.command(RxModeSet(RxMode.PROMISC, 0).encode()) == OK
    await left.send(frame(LEFT))
    await left.send(frame(RIGHT))
    assert await arrives(right) == frame(RIGHT)
    assert right.device.statistics.drops == {"rx.unicast": 1}


async def test_inbound_frames_are_steered_to_active_pairs_only(drive, ends):
    left = await drive(mac=LEFT, datapath=ends[0])
    right = await drive(mac=RIGHT, datapath=ends[1], max_queue_pairs=4)
    for pair in range(4):
        right.fill(pair)
    assert await right.command(VqPairsSet(3).encode()) == OK
    sent = [frame(RIGHT, LEFT[:5] + bytes((last,))) for last in range(24)]
    for one in sent:
        await left.send(one)
    await trio.testing.wait_all_tasks_blocked()
    by_pair = [right.received(pair) for pair in range(4)]
    assert [bool(received) for received in by_pair] == [True, True, True, False]
    for pair, received in enumerate(by_pair):
        assert all(steer(one, 3) == pair for one in received)
    lost = right.device.statistics.rx_overruns
    assert sum(map(len, by_pair)) + lost == 24


async def test_without_the_other_end_frames_are_lost_and_counted(drive, ends, simulate):
    left = await drive(datapath=ends[0])
    await left.send(frame(BROADCAST))
    right = await simulate(datapath=ends[1])
    await right.aclose()
    await left.send(frame(BROADCAST))
    assert left.device.statistics.drops == {"peer.absent": 2}


async def test_an_end_that_comes_back_is_found_again(drive, ends, simulate):
    left = await drive(mac=LEFT, datapath=ends[0])
    await (await simulate(datapath=ends[1])).aclose()
    right = await drive(mac=RIGHT, datapath=ends[1])
    right.fill()
    await left.send(frame(BROADCAST))
    assert await arrives(right) == frame(BROADCAST)


async def test_a_full_socket_loses_frames_and_holds_nobody_up(drive, ends):
    left = await drive(datapath=ends[0])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody_reads:
        nobody_reads.bind(ends[0].connect)
        with trio.fail_after(5):
            while not left.device.statistics.drops["peer.full"]:
                await left.send(frame(BROADCAST))
    assert left.device.statistics.tx_packets < 1000


async def test_frames_that_arrive_before_driver_ok_do_not_keep_the_device_busy(simulate, drive, ends):
    idle = await simulate(datapath=ends[1])
    left = await drive(datapath=ends[0])
    await left.send(frame(BROADCAST))
    with trio.fail_after(5):
        await trio.testing.wait_all_tasks_blocked()
    assert idle.statistics.rx_packets == 0


async def test_anything_may_arrive(drive, ends):
    right = await drive(datapath=ends[1])
    right.fill()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for datagram in (b"", b"\xff", b"\xff" * 13, b"\xff" * 100_000, frame(BROADCAST)):
            stranger.sendto(datagram, ends[1].bind)
    assert await arrives(right) == frame(BROADCAST)
    assert right.device.statistics.drops == {"rx.runt": 3, "rx.too_long": 1}


async def test_the_socket_is_the_owner_s_and_goes_with_the_device(simulate, ends, tmp_path):
    device = await simulate(datapath=ends[0])
    mode = (tmp_path / "left").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    await device.aclose()
    assert list(tmp_path.iterdir()) == []


async def test_a_stale_socket_is_replaced(drive, ends):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as crashed:
        crashed.bind(ends[0].bind)
    left = await drive(mac=LEFT, datapath=ends[0])
    right = await drive(mac=RIGHT, datapath=ends[1])
    left.fill()
    await right.send(frame(BROADCAST))
    assert await arrives(left) == frame(BROADCAST)


@pytest.mark.parametrize("occupant", ["a device", "a file"])
async def test_a_path_that_is_taken_is_refused_and_left_alone(simulate, ends, tmp_path, occupant):
    if occupant == "a device":
        await simulate(datapath=ends[0])
    else:
        (tmp_path / "left").write_text("precious")
    before = (tmp_path / "left").stat().st_ino
    with pytest.raises(DeviceError, match="EADDRINUSE") as caught:
        await simulate(datapath=ends[0])
    assert caught.value.errno == errno.EADDRINUSE
    assert (tmp_path / "left").stat().st_ino == before


async def test_a_path_that_cannot_be_bound_is_refused(simulate, tmp_path):
    with pytest.raises(DeviceError, match="ENOENT"):
        await simulate(datapath=PeerPath(str(tmp_path / "no" / "where"), str(tmp_path / "b")))
