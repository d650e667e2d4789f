"""The virtual machine, booted once; inside it, what lies in ``inside`` is collected instead."""

from __future__ import annotations

import os

import pytest

from kernel import real_systemd
from kernel.virtual_machine import boot

INSIDE = "CVQD_KERNEL" in os.environ
collect_ignore_glob = ["test_*.py"] if INSIDE else ["inside"]

PARAMETERS = "/sys/module/vdpa_sim_net/parameters"
#: name, queue pairs, whether MQ is offered; the first two are the kernel's own device, see multiqueue.patch
DEVICES = (("vdpa0", 1, "Y"), ("vdpa1", 1, "Y"), ("vdpa2", 4, "Y"), ("vdpa3", 4, "N"), ("vdpa4", 4, "Y"))


@pytest.fixture(scope="session")
def machine():
    """A machine with the devices above, as ``/dev/vhost-vdpa-0`` and so on."""
    script = ["set -e"]
    for number, (name, pairs, multiqueue) in enumerate(DEVICES):
        script += [
            f"echo {pairs} > {PARAMETERS}/pairs",
            f"echo {multiqueue} > {PARAMETERS}/offer_mq",
            f"vdpa dev add name {name} mgmtdev vdpasim_net mac 52:54:11:22:33:0{number + 1} mtu 1500",
        ]
    with boot() as machine:
        added = machine.run(["sh", "-c", "\n".join(script)])
        assert added.code == 0, added
        yield machine


#: in the order of their appearance: what watches the card, and the card behind an emulated IOMMU
_CARD = (
    *("-chardev", "socket,id=monitor,path={socket},server=on,wait=off"),
    *("-mon", "chardev=monitor,mode=control"),
    *("-chardev", "socket,id=inside,path={socket}", "-device", "virtserialport,chardev=inside,name=monitor"),
    *("-device", "intel-iommu,intremap=off,aw-bits=48"),
    *("-netdev", "tap,id=net,ifname=card0,script=no,downscript=no,queues=4"),
    "-device",
    "virtio-net-pci,id=card,netdev=net,romfile=,iommu_platform=on,disable-legacy=on,mq=on,mac=52:54:11:22:33:90",
)

# 0x1041 is a virtio network card, virtio 1.3 §4.1.2
_GIVE_TO_VHOST = """
set -e
for card in /sys/bus/pci/devices/*; do [ "$(cat $card/device)" != 0x1041 ] || address=${card##*/}; done
card=/sys/bus/pci/devices/$address
echo vp-vdpa > $card/driver_override
[ ! -e $card/driver ] || echo $address > $card/driver/unbind
echo $address > /sys/bus/pci/drivers_probe
vdpa dev add name card mgmtdev pci/$address
test -c /dev/vhost-vdpa-0
"""


@pytest.fixture
def card_machine(tmp_path):
    """A machine with one device, QEMU's network card, and QEMU's monitor as the serial port ``monitor``."""
    extra = [word.format(socket=tmp_path / "monitor") for word in _CARD]
    with boot(extra=extra, kernel_words="intel_iommu=on", own_network=True) as machine:
        added = machine.run(["sh", "-c", _GIVE_TO_VHOST])
        assert added.code == 0, added
        yield machine


@pytest.fixture
def systemd_machine():
    """A machine with one device and a systemd, and what to put before a command that is to run under it."""
    with boot() as machine:
        added = machine.run(["vdpa", "dev", "add", "name", "vdpa0", "mgmtdev", "vdpasim_net"])
        assert added.code == 0, added
        yield machine, real_systemd.start(machine)
