"""The virtual machine, booted once; inside it, what lies in ``inside`` is collected instead."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# the harness is no package: its files are imported by their names
sys.path.insert(0, str(Path(__file__).parent))

from virtual_machine import boot

INSIDE = "CVQD_KERNEL_DEVICE" in os.environ
collect_ignore_glob = ["test_*.py"] if INSIDE else ["inside"]


@pytest.fixture(scope="session")
def machine():
    """A machine with ``vdpa0`` and ``vdpa1``, two of the kernel's simulated network devices."""
    with boot() as machine:
        for number in (0, 1):
            added = machine.run(
                [
                    *("vdpa", "dev", "add", "name", f"vdpa{number}", "mgmtdev", "vdpasim_net"),
                    *("mac", f"52:54:11:22:33:0{number + 1}", "mtu", "1500"),
                ]
            )
            assert added.code == 0, added
        yield machine
