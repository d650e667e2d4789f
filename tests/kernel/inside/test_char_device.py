"""CharDevice on the kernel's own simulator: what it reports, what it refuses and how that is told."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cvqd.errors import DeviceError, UnavailableError
from cvqd.host import shared_memory
from cvqd.host.vdpa import CharDevice
from cvqd.host.vdpa_node import find_node, list_nodes
from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_vdpa import Access, Backend, BatchMark, IovaRange, Map, Unmap
from cvqd.wire.virtio import NET_DEVICE_ID, Feature, Status
from kernel.ring_driver import READY, DirectRing, negotiate

PAGE = 4096


@pytest.fixture
def region():
    return shared_memory.create("test", 16 * PAGE)


def page(region, iova, number=0, pages=1):
    return Map(iova, pages * PAGE, region, number * PAGE, Access.READ_WRITE)


async def test_the_device_says_what_it_is(device):
    assert await device.device_id() == NET_DEVICE_ID
    assert await device.get_vqs_count() == 3
    assert [await device.get_vring_group(index) for index in range(3)] == [0, 0, 1]
    assert await device.get_group_num() == 2
    assert await device.get_as_num() == 2
    assert await device.get_vring_num() == 256
    assert await device.get_iova_range() == IovaRange(0, 2**64 - 1)
    features = await device.get_features()
    wanted = (Feature.CTRL_VQ, Feature.MAC, Feature.STATUS, Feature.MTU, Feature.VERSION_1)
    assert all(features & feature.mask for feature in wanted)


async def test_the_kernel_offers_the_backend_features_the_daemon_uses(device):
    offered = await device.get_backend_features()
    missing = [bit.name for bit in Backend if not offered & bit.mask]
    assert missing == ["DESC_ASID"]
    await device.set_backend_features(offered)


async def test_config_reads_and_writes_and_ends_at_its_size(device):
    size = await device.get_config_size()
    config = await device.get_config(0, size)
    assert len(config) == size == 24
    await device.set_config(0, b"\x52\x54\x11\x99\x99\x99")
    assert await device.get_config(0, 6) == b"\x52\x54\x11\x99\x99\x99"
    assert await device.get_config(4, 4) == b"\x99\x99\x01\x00"
    for offset, length in ((0, 0), (size, 1), (0, size + 1)):
        with pytest.raises(DeviceError, match="outside the configuration space") as refused:
            await device.get_config(offset, length)
        assert refused.value.errno == errno.EINVAL
        assert refused.value.arguments == f"off={offset}, len={length}"


async def test_status_only_grows_until_it_is_reset(device):
    await negotiate(device)
    assert await device.get_status() == READY
    with pytest.raises(DeviceError, match=r"SET_STATUS\(0x1\): EINVAL: a set bit would be cleared"):
        await device.set_status(Status.ACKNOWLEDGE)
    with pytest.raises(DeviceError, match="FEATURES_OK is set"):
        await device.set_features(Feature.ACCESS_PLATFORM.mask)
    await device.set_status(0)
    assert await device.get_status() == 0


async def test_features_without_access_platform_are_refused(device):
    await device.set_status(0)
    with pytest.raises(DeviceError, match="the device refuses this set of features"):
        await device.set_features(Feature.VERSION_1.mask)


async def test_rings_behind_the_last_are_refused_by_every_ring_call(device):
    calls = [
        device.get_vring_group(3),
        device.get_vring_base(3),
        device.set_vring_num(3, 16),
        device.set_vring_addr(3, RingAddresses(0, 0, 0)),
        device.set_vring_base(3, 0),
        device.set_vring_kick(3, -1),
        device.set_vring_call(3, -1),
        device.set_vring_enable(3, enable=True),
    ]
    for call in calls:
        with pytest.raises(DeviceError, match="no such ring") as refused:
            await call
        assert refused.value.errno == errno.ENOBUFS


async def test_ring_values_that_cannot_be_are_refused(device):
    await negotiate(device)
    with pytest.raises(DeviceError, match="not a power of two"):
        await device.set_vring_num(0, 100)
    with pytest.raises(DeviceError, match="misaligned"):
        await device.set_vring_addr(0, RingAddresses(0, 1, 0))
    with pytest.raises(DeviceError, match="65535"):
        await device.set_vring_base(0, 65536)
    await device.set_vring_base(0, 65535)
    assert await device.get_vring_base(0) == 65535


async def test_only_eventfds_can_be_doorbells(device, tmp_path):
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        for bind in (device.set_vring_kick, device.set_vring_call):
            with pytest.raises(DeviceError, match="not an eventfd"):
                await bind(0, file)
            with pytest.raises(DeviceError, match="not an open descriptor"):
                await bind(0, 999)
            await bind(0, -1)
        with pytest.raises(DeviceError, match="not an eventfd"):
            await device.set_config_call(file)
        await device.set_config_call(-1)
    finally:
        os.close(file)


async def test_groups_move_only_between_spaces_that_exist(device):
    await device.set_group_asid(1, 1)
    for group, asid in ((1, 2), (2, 0)):
        with pytest.raises(DeviceError, match="no such group or address space"):
            await device.set_group_asid(group, asid)
    with pytest.raises(DeviceError, match="no such group"):
        await device.set_group_asid(3, 0)


async def test_mappings_are_added_and_removed_in_one_batch(device, region):
    await negotiate(device)
    added = [page(region, number * 2 * PAGE, number) for number in range(8)]
    for asid in (0, 1):
        await device.iotlb(asid, [BatchMark.BEGIN, *added, BatchMark.END])
        removed = [Unmap(number * 2 * PAGE, PAGE) for number in range(8)]
        await device.iotlb(asid, [BatchMark.BEGIN, *removed, *added, BatchMark.END])


async def refusal(device, asid, *messages, number=errno.EFAULT):
    with pytest.raises(DeviceError) as refused:
        await device.iotlb(asid, messages)
    assert refused.value.errno == number
    return str(refused.value)


async def test_each_refused_mapping_is_told_with_its_cause(device, region):
    await negotiate(device)
    await device.iotlb(0, [page(region, 0x10000)])
    assert "overlaps 0x10000-0x10fff" in await refusal(device, 0, page(region, 0x10000))
    assert "overlaps 0x10000-0x10fff" in await refusal(device, 0, page(region, 0xF000, pages=2))
    assert "address space 2 does not exist" in await refusal(device, 2, page(region, 0))
    assert "nothing was ever mapped in address space 1" in await refusal(device, 1, Unmap(0, PAGE))
    # the one cause that has a number of its own
    nothing = Map(0, 0, region, 0, Access.READ)
    assert "size 0" in await refusal(device, 0, nothing, number=errno.EINVAL)
    text = await refusal(device, 0, page(region, 2**64 - PAGE, pages=2))
    assert "outside the IOVA range 0x0-0xffffffffffffffff" in text
    assert text.startswith(f"VHOST_IOTLB_UPDATE(asid=0, iova={2**64 - PAGE:#x}, size=0x2000, access=")


async def test_an_open_batch_keeps_other_spaces_out_until_it_ends(device, region):
    await negotiate(device)
    await device.iotlb(0, [BatchMark.BEGIN, page(region, 0)])
    assert "a batch is open for address space 0" in await refusal(device, 1, page(region, 0))
    await device.set_status(0)
    assert "a batch is open for address space 0" in await refusal(device, 1, page(region, 0))
    await device.iotlb(0, [BatchMark.END])
    await device.iotlb(1, [page(region, 0)])


async def test_an_address_space_takes_as_many_entries_as_the_kernel_says(device, region):
    await negotiate(device)
    await device.iotlb(0, [BatchMark.BEGIN, *(page(region, 2 * n * PAGE) for n in range(2048))])
    assert "entry limit: address space 0 has 2048 entries" in await refusal(
        device, 0, page(region, 2 * 2048 * PAGE)
    )
    await device.iotlb(0, [BatchMark.END])


async def test_without_asids_acknowledged_nothing_strays_into_space_0(device, region):
    await device.set_backend_features(Backend.IOTLB_MSG_V2.mask)
    assert "IOTLB_ASID is not acknowledged" in await refusal(device, 1, page(region, 0))
    await device.iotlb(0, [page(region, 0)])


async def test_a_child_process_is_told_that_it_is_not_the_owner(device, region):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            device._write(0, [page(region, 0)])
        except DeviceError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        assert f"not the owner: process {os.getpid()} opened the device" in told.read()
    os.waitpid(child, 0)  # noqa: ASYNC222  its end of the pipe is closed: it is gone


async def test_a_second_opener_is_told_that_the_device_is_busy(device):
    with pytest.raises(UnavailableError) as refused:
        await CharDevice.open(device.path)
    assert str(refused.value) == f"{device.path}: busy: another process has it open"
    assert refused.value.exit_code == 75
    await device.aclose()
    again = await CharDevice.open(device.path)
    await again.aclose()


async def test_a_closed_device_says_so(node):
    device = await CharDevice.open(node)
    await device.aclose()
    with pytest.raises(DeviceError, match="EBADF: the device is closed"):
        await device.get_status()
    with pytest.raises(DeviceError, match="EBADF: the device is closed"):
        await device.iotlb(0, [BatchMark.BEGIN])
    await device.aclose()


def test_a_name_is_resolved_through_sysfs_to_its_node():
    nodes = {node.name: node for node in list_nodes()}
    assert set(nodes) == {"vdpa0", "vdpa1", "vdpa2", "vdpa3", "vdpa4"}
    assert nodes["vdpa1"].driver == "vhost_vdpa"
    assert stat.S_ISCHR(Path(find_node("vdpa1")).stat().st_mode)
    with pytest.raises(
        UnavailableError, match=r"this host has vdpa0, vdpa1, vdpa2, vdpa3, vdpa4$"
    ) as refused:
        find_node("vdpa7")
    assert refused.value.exit_code == 69


OPEN = """
import os, sys, trio
from cvqd.errors import UnavailableError
from cvqd.host.vdpa import CharDevice
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    trio.run(CharDevice.open, sys.argv[1])
except UnavailableError as error:
    print(error); sys.exit(error.exit_code)
"""


def test_a_user_without_permission_is_told_who_has_it(node):
    done = subprocess.run([sys.executable, "-c", OPEN, node], check=False, capture_output=True, text=True)
    assert done.stdout == (
        f"{node}: no permission: it belongs to root, group root, mode 0600, and this process is nobody\n"
    )
    assert done.returncode == 77


async def test_suspend_keeps_the_ring_state_and_resume_goes_on(device):
    ring = DirectRing(0x100000)
    await negotiate(device)
    await device.iotlb(1, [ring.mapping])
    await device.iotlb(0, [ring.mapping])
    await device.set_group_asid(1, 1)
    await ring.attach(device, 2)
    await device.set_status(READY | Status.DRIVER_OK)
    assert ring.command(b"\x01\x01\x52\x54\x11\x22\x33\x77") == 0
    with pytest.raises(DeviceError, match="the ring may be running"):
        await device.set_vring_base(2, 0)
    await device.suspend()
    assert await device.get_status() == READY | Status.DRIVER_OK
    assert await device.get_vring_base(2) == 1
    assert ring.command(b"\x01\x01\x52\x54\x11\x22\x33\x88", timeout=0.2) is None
    assert await device.get_config(0, 6) == b"\x52\x54\x11\x22\x33\x77"
    await device.resume()
    # the kick that came meanwhile was remembered
    assert ring._used(2.0)
    assert await device.get_config(0, 6) == b"\x52\x54\x11\x22\x33\x88"
    ring.close()
