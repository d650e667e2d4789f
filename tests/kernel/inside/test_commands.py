"""``cvqd`` on the kernel's device, as an administrator meets it: what it shows, and each way not to start."""

from __future__ import annotations

import json
import os

import pytest

from cvqd.core.isolation import Verdict
from cvqd.errors import DeviceError
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.wire.virtio import Feature


def config(directory, **device):
    file = directory / "vm0.yaml"
    content = {
        "device": {"kind": "vhost-vdpa", **device},
        "frontend": {"socket": str(directory / "vm0.sock")},
        "control": {"socket": str(directory / "vm0.control")},
        "log": {"format": "json"},
    }
    file.write_text(json.dumps(content))
    return file


def failure(result):
    """The log's last word."""
    last = json.loads(result.stderr.splitlines()[-1])
    assert last["event"] == "service.failed"
    assert last["exit_code"] == result.code
    return result.code, last["reason"]


def test_probe_shows_the_kernels_device_to_programs(cvqd, node):
    found = json.loads(cvqd("probe", node, "--json").stdout)
    device = found["device"]
    assert (device["kind"], device["path"]) == ("vhost-vdpa", node)
    assert set(device["features"]) == {
        *("MTU", "MAC", "STATUS", "CTRL_VQ", "CTRL_MAC_ADDR"),
        *("ANY_LAYOUT", "VERSION_1", "ACCESS_PLATFORM"),
    }
    assert [entry["name"] for entry in device["masked"]] == ["ACCESS_PLATFORM"]
    assert device["backend"] == [
        *("IOTLB_MSG_V2", "IOTLB_BATCH", "IOTLB_ASID", "SUSPEND"),
        *("RESUME", "ENABLE_AFTER_DRIVER_OK", "IOTLB_PERSIST"),
    ]
    assert device["lacks"] == {}
    assert [device[key] for key in ("pairs", "queues", "groups", "address_spaces")] == [1, 3, 2, 2]
    isolation = found["isolation"]
    assert isolation["verdict"] == Verdict.ISOLATED.value
    assert [(queue["group"], queue["asid"]) for queue in isolation["queues"]] == [(0, 0), (0, 0), (1, 1)]


def test_probe_shows_it_to_people_by_its_name(cvqd, node):
    result = cvqd("probe", "vdpa0")
    assert result.code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"device        vhost-vdpa {node}"
    assert lines[1] == "  has         pairs 1, queues 3, queue size 256, groups 2, address spaces 2"
    assert "isolation     isolated" in lines
    assert "a probe resets the device" in result.stderr


def test_probe_without_a_device_shows_all_there_are(cvqd):
    found = json.loads(cvqd("probe", "--json").stdout)
    assert [entry["isolation"]["verdict"] for entry in found] == ["isolated"] * 3 + ["shared", "isolated"]
    assert [entry["device"]["pairs"] for entry in found] == [1, 1, 4, 1, 4]


@pytest.mark.parametrize("verb", ["run", "probe"])
def test_a_device_in_use_is_busy(cvqd, node, tmp_path, verb):
    words = ("run", "--config", config(tmp_path, path=node)) if verb == "run" else ("probe", node)
    holder = os.open(node, os.O_RDWR)
    result = cvqd(*words)
    os.close(holder)
    assert result.code == 75
    assert f"{node}: busy: another process has it open" in result.stderr


def test_a_device_that_is_not_there_is_absent_by_path_and_by_name(cvqd, tmp_path):
    assert failure(cvqd("run", "--config", config(tmp_path, path="/dev/vhost-vdpa-77"))) == (
        69,
        "/dev/vhost-vdpa-77: no such device",
    )
    assert failure(cvqd("run", "--config", config(tmp_path, vdpa="vdpa77"))) == (
        69,
        "vdpa77: no vdpa device has this name; this host has vdpa0, vdpa1, vdpa2, vdpa3, vdpa4",
    )


def test_a_node_that_is_no_vdpa_device_is_a_mistake_in_the_configuration(cvqd, tmp_path):
    code, reason = failure(cvqd("run", "--config", config(tmp_path, path="/dev/null")))
    assert (code, reason) == (78, "/dev/null: not a vhost-vdpa device")


def test_a_control_queue_in_the_data_group_is_refused_under_require(cvqd, tmp_path):
    code, reason = failure(cvqd("run", "--config", config(tmp_path, vdpa="vdpa3")))
    assert code == 78
    assert "control queue 2: queue 2 shares group 0 with queues 0, 1, 3, 4, 5, 6, 7" in reason


async def test_features_the_device_refuses_end_the_front_end_and_not_the_daemon(instance, node, monkeypatch):
    async with instance(node) as daemon:
        with monkeypatch.context() as patched:
            # the kernel's simulator refuses any word without this bit
            patched.setattr(daemon.owner.current, "word", lambda *_: Feature.VERSION_1.mask)
            with pytest.raises(FrontEndError):
                async with daemon.guest():
                    raise AssertionError
        (failed,) = daemon.log.of("device.failed")
        assert failed["call"] == "VHOST_SET_FEATURES"
        assert failed["reason"] == "the device refuses this set of features"
        async with daemon.guest() as driver:
            assert driver.control


async def test_a_map_that_fails_aborts_the_start_and_says_which(instance, node, monkeypatch):
    async with instance(node) as daemon:
        iotlb = daemon.device.iotlb
        seen = []

        async def failing(asid, messages):
            seen.append(asid)
            await iotlb(7 if asid else asid, messages)

        with monkeypatch.context() as patched:
            patched.setattr(daemon.device, "iotlb", failing)
            with pytest.raises((FrontEndError, DeviceError)):
                async with daemon.guest():
                    raise AssertionError
        (failed, *_) = daemon.log.of("device.failed")
        assert failed["reason"] == "address space 7 does not exist: the device has 2"
        assert not daemon.log.of("device.started")
        assert not daemon.owner.running
        assert {0, 1} <= set(seen)
