"""The virtual machine, booted once; inside it, what lies in ``inside`` is collected instead."""

from __future__ import annotations

import os

import pytest

from kernel.virtual_machine import boot

INSIDE = "CVQD_KERNEL" in os.environ
collect_ignore_glob = ["test_*.py"] if INSIDE else ["inside"]

PARAMETERS = "/sys/module/vdpa_sim_net/parameters"
#: name, queue pairs, whether MQ is offered; the first two are the kernel's own device, see multiqueue.patch
DEVICES = (("vdpa0", 1, "Y"), ("vdpa1", 1, "Y"), ("vdpa2", 4, "Y"), ("vdpa3", 4, "N"))


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
