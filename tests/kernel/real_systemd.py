"""systemd inside the virtual machine: the units as an operator has them, on the kernel's device."""

from __future__ import annotations

import site
import sys
from typing import TYPE_CHECKING

from kernel.kernel_image import CHECKOUT, HERE, kernel_image

if TYPE_CHECKING:
    from kernel.virtual_machine import VirtualMachine


def start(machine: VirtualMachine) -> tuple[str, ...]:
    """Start it; what to put before a command that is to run under it, in the checkout."""
    words = [CHECKOUT, sys.base_prefix, site.getsitepackages()[0], kernel_image().udev]
    started = machine.run(["sh", HERE / "start_systemd.sh", *words], timeout=60)
    assert started.code == 0, started
    # the root of a mount namespace is the one from before init's chroot
    return ("nsenter", "-t", started.stdout.strip(), "-m", "-p", "-r", "-w", "env", "-C", str(CHECKOUT))
