"""QEMU's own network card behind an emulated IOMMU: one group, pinned memory, no ring indices.

What the card has taken is asked of QEMU itself, through its monitor.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
from pathlib import Path

import pytest

from cvqd.core.isolation import Verdict
from cvqd.errors import DeviceError
from cvqd.host.vdpa import CharDevice
from cvqd.testing.daemon import DaemonProcess
from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.testing.uml import UmlGuest
from cvqd.wire.net_control import OK, MacAddrSet, RxMode, RxModeSet, VlanAdd
from cvqd.wire.virtio import Feature, mask_of

NODE = "/dev/vhost-vdpa-0"
OWN = "52:54:11:22:33:90"
NEW = "52:54:11:c1:ff:ee"
LIMIT = 8 << 20
#: a pinned page that does not lie behind another takes one of the kernel's 2048 entries
SIZE = 2 << 20
#: features of the rings aside
PLAIN = ~mask_of(Feature.PROTOCOL_FEATURES, Feature.INDIRECT_DESC, Feature.EVENT_IDX)


class Monitor:
    """QEMU's monitor protocol, QMP, over a serial port."""

    def __init__(self):
        for port in Path("/sys/class/virtio-ports").iterdir():
            if (port / "name").read_text().strip() == "monitor":
                self._port = (Path("/dev") / port.name).open("r+b", buffering=0)
        self._lines = b""
        self._line()
        self.ask("qmp_capabilities")

    def _line(self):
        while b"\n" not in self._lines:
            self._lines += self._port.read(65536)
        line, _, self._lines = self._lines.partition(b"\n")
        return json.loads(line)

    def ask(self, command, **arguments):
        self._port.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while "return" not in (answer := self._line()):
            assert "error" not in answer, answer
        return answer["return"]

    def close(self):
        self._port.close()

    @property
    def filter(self):
        """What the card lets in."""
        (found,) = self.ask("query-rx-filter", name="card")
        return found


@pytest.fixture(scope="session")
def monitor():
    monitor = Monitor()
    yield monitor
    monitor.close()


@contextlib.contextmanager
def memlock(limit):
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, resource.RLIM_INFINITY))
    yield
    resource.setrlimit(resource.RLIMIT_MEMLOCK, before)


@pytest.fixture
def unlimited():
    with memlock(resource.RLIM_INFINITY):
        yield


@pytest.fixture
def limited():
    with memlock(LIMIT):
        yield


def config(directory, **more):
    return {
        "device": {"kind": "vhost-vdpa", "path": NODE},
        "frontend": {"socket": str(directory / "vm0.sock")},
        "control": {"socket": str(directory / "vm0.control")},
        "state": {"directory": str(directory / "vm0.state")},
        "log": {"level": "debug", "format": "json"},
        **more,
    }


def test_probe_names_what_the_card_offers_in_vain_and_what_it_cannot_do(cvqd):
    found = json.loads(cvqd("probe", NODE, "--json").stdout)
    device, isolation = found["device"], found["isolation"]
    assert (device["pairs"], device["queues"], device["groups"], device["address_spaces"]) == (4, 3, 1, 1)
    masked = {entry["name"]: entry["reason"] for entry in device["masked"]}
    assert masked["MQ"] == "4 pairs need 9 rings and the device has 3"
    assert "SUSPEND" not in device["backend"]
    assert device["lacks"] == {
        "suspend": "stopped by a reset",
        "ring indices": "neither reported nor taken: rings can begin and cannot be continued",
        "late enable": "data queues run while control state is put back",
    }
    assert (isolation["verdict"], isolation["queues"][2]["group"]) == ("shared", None)
    assert isolation["reason"] == "the device has 1 address space, two are needed"


def test_probe_says_the_same_to_people(cvqd):
    shown = cvqd("probe", "card").stdout
    assert "  lacks       suspend       stopped by a reset" in shown
    assert "ring indices  neither reported nor taken" in shown
    assert "isolation     shared" in shown


def test_require_refuses_the_card_with_the_reason(cvqd, tmp_path):
    file = tmp_path / "vm0.yaml"
    file.write_text(json.dumps(config(tmp_path)))
    done = cvqd("run", "--config", file)
    assert done.code == 78
    (refused,) = [line for line in done.stderr.splitlines() if '"isolation.refused"' in line]
    event = json.loads(refused)
    assert (event["queue"], event["reason"]) == (2, "the device has 1 address space, two are needed")


@pytest.mark.usefixtures("unlimited")
async def test_ring_indices_are_neither_reported_nor_taken():
    device = await CharDevice.open(NODE)
    with pytest.raises(DeviceError, match="EOPNOTSUPP"):
        await device.get_vring_base(0)
    with pytest.raises(DeviceError, match="EOPNOTSUPP: the device takes no ring index"):
        await device.set_vring_base(0, 5)
    await device.aclose()


@pytest.mark.usefixtures("unlimited")
async def test_the_shipped_drivers_commands_reach_the_card(instance, monitor):
    async with instance(NODE, require_isolation=False) as daemon:
        assert daemon.owner.current.isolation.verdict is Verdict.SHARED
        async with daemon.guest(PLAIN, SIZE) as driver:
            assert await driver.command(MacAddrSet(bytes.fromhex(NEW.replace(":", ""))).encode()) == OK
            assert monitor.filter["main-mac"] == NEW
            assert await driver.command(VlanAdd(7).encode()) == OK
            assert monitor.filter["vlan-table"] == [7]
            assert await driver.command(RxModeSet(RxMode.PROMISC, on=True).encode()) == OK
            assert monitor.filter["promiscuous"] is True
            assert await driver.command(RxModeSet(RxMode.PROMISC, on=False).encode()) == OK
            assert monitor.filter["promiscuous"] is False
        # a new driver starts from the beginning, on new rings
        async with daemon.guest(PLAIN, SIZE) as driver:
            assert monitor.filter["main-mac"] == OWN
            assert await driver.command(VlanAdd(8).encode()) == OK
            assert monitor.filter["vlan-table"] == [8]


@pytest.fixture
def large_pages(tmp_path, monkeypatch):
    """A place for a guest's memory of which the kernel can map two MiB with one entry."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "huge=always", "none", tmp_path], check=True)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.mark.guest
@pytest.mark.usefixtures("unlimited", "large_pages")
@pytest.mark.timeout(180)
async def test_a_linux_guests_commands_reach_the_card(tmp_path, monitor):
    settings = config(tmp_path, isolation="prefer")
    async with (
        DaemonProcess.start(tmp_path, settings, deadline=60) as daemon,
        UmlGuest.boot([Path(daemon.socket)], memory_mib=64, deadline=90) as guest,
    ):
        await guest.load("virtio_net", "8021q", deadline=60)
        await guest.check("ip link set eth0 up", deadline=40)
        status = await daemon.status()
        assert status["isolation"]["verdict"] == "shared"
        assert status["state"]["rx"]["promisc"] is False
        assert monitor.filter["promiscuous"] is False
        await guest.check(f"ip link set eth0 address {NEW}", deadline=40)
        assert monitor.filter["main-mac"] == NEW
        await guest.check("ip link add link eth0 name v7 type vlan id 7", deadline=40)
        assert 7 in monitor.filter["vlan-table"]
        await guest.check("ip link set eth0 promisc on", deadline=40)
        assert monitor.filter["promiscuous"] is True
        await daemon.told()
        acked = daemon.named("cvq.command.acked")
        assert {event["command"] for event in acked} >= {"mac.addr_set", "vlan.add", "rx.promisc"}
        assert {event["ack"] for event in acked} == {OK}
        assert await daemon.stop(deadline=20) == 0


def pinned():
    """Bytes that the kernel holds for devices of this process."""
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmPin")
    ]
    return int(line.split()[1]) << 10


@pytest.mark.usefixtures("unlimited")
async def test_guest_memory_is_pinned_and_let_go(instance):
    async with instance(NODE, require_isolation=False) as daemon:
        async with daemon.guest(PLAIN, SIZE):
            assert pinned() >= SIZE
        # the shadow memory stays, in the same address space
        assert pinned() == len(daemon.owner.current.shadow._region)
    assert pinned() == 0


@pytest.mark.bad_day(
    "the memlock limit is too low for a guest",
    guest="no device: its front-end is hung up on; a smaller one is served",
    log="device.failed",
)
@pytest.mark.usefixtures("limited")
async def test_memory_beyond_the_memlock_limit_is_refused_with_limit_and_need(instance):
    async with instance(NODE, require_isolation=False) as daemon:
        with GuestMemory(2 * LIMIT) as memory, NetDriver(memory, 1, 64) as driver:
            async with await FrontEnd.connect(daemon.socket) as front_end:
                features = await front_end.get_features() & PLAIN
                with contextlib.suppress(FrontEndError):
                    await front_end.play(ORDERS["qemu"].connect(driver.setup(features)))
                    await front_end.play(ORDERS["qemu"].start(driver.setup(features)))
        (failed,) = daemon.log.of("device.failed")
        assert failed["call"] == "VHOST_IOTLB_UPDATE"
        assert failed["reason"] == (
            f"memlock limit: {LIMIT} bytes allowed, {2 * LIMIT} needed (0 pinned already); raise LimitMEMLOCK"
        )
        # and the next, smaller guest is served
        async with daemon.guest(PLAIN, SIZE):
            assert SIZE < pinned() <= LIMIT
