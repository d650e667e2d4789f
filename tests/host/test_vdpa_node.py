"""Finding and opening a node: one line and one exit code per obstacle.

What only a real device can show (busy, no permission) is in ``tests/kernel``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from cvqd.errors import UnavailableError
from cvqd.host.vdpa import CharDevice
from cvqd.host.vdpa_node import Node, find_node, list_nodes


@pytest.fixture
def sysfs(tmp_path):
    """Three devices: one for vhost, one for virtio, one for nobody."""
    devices = tmp_path / "bus" / "vdpa" / "devices"
    for name, driver in (("vdpa0", "vhost_vdpa"), ("vdpa1", "virtio_vdpa"), ("vdpa2", "")):
        (devices / name).mkdir(parents=True)
        if driver:
            home = tmp_path / "bus" / "vdpa" / "drivers" / driver
            home.mkdir(parents=True)
            (devices / name / "driver").symlink_to(home)
    (devices / "vdpa0" / "vhost-vdpa-3").mkdir()
    return tmp_path


def test_all_devices_are_listed_with_node_and_driver(sysfs):
    assert list_nodes(sysfs) == [
        Node("vdpa0", "/dev/vhost-vdpa-3", "vhost_vdpa"),
        Node("vdpa1", "", "virtio_vdpa"),
        Node("vdpa2", "", ""),
    ]


def test_a_host_without_the_bus_has_no_devices(tmp_path):
    assert list_nodes(tmp_path) == []
    with pytest.raises(UnavailableError, match="this host has none"):
        find_node("vdpa0", tmp_path)


def test_a_device_is_found_by_its_name(sysfs):
    assert find_node("vdpa0", sysfs) == "/dev/vhost-vdpa-3"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vdpa7", "vdpa7: no vdpa device has this name; this host has vdpa0, vdpa1, vdpa2"),
        ("vdpa1", "vdpa1: driver virtio_vdpa has it; bind it to vhost_vdpa (driver_override in sysfs)"),
        ("vdpa2", "vdpa2: no driver has it; bind it to vhost_vdpa (driver_override in sysfs)"),
    ],
)
def test_a_device_without_a_node_is_told_with_the_remedy(sysfs, name, told):
    with pytest.raises(UnavailableError) as refused:
        find_node(name, sysfs)
    assert str(refused.value) == told
    assert refused.value.exit_code == 69


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


async def refused_open(path):
    descriptors = open_descriptors()
    with pytest.raises(UnavailableError) as refused:
        await CharDevice.open(str(path))
    assert open_descriptors() == descriptors
    return str(refused.value), refused.value.exit_code


async def test_a_node_that_is_not_there_is_unavailable(tmp_path):
    path = tmp_path / "vhost-vdpa-0"
    assert await refused_open(path) == (f"{path}: no such device", 69)
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "vhost-vdpa-0"
    assert await refused_open(inside) == (f"{inside}: no such device", 69)


async def test_a_file_or_a_pipe_is_not_opened_at_all(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    with trio.fail_after(5):
        for path in (tmp_path / "pipe", tmp_path / "file", tmp_path):
            assert await refused_open(path) == (f"{path}: not a character device", 78)


async def test_another_character_device_is_none_of_ours():
    assert await refused_open("/dev/null") == ("/dev/null: not a vhost-vdpa device", 78)
