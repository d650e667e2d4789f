"""A network namespace of the test's own, with a tap interface in it: nothing reaches the host's network.

Only the calling thread enters it, with what it starts: processes of
``subprocess`` are inside, those of ``trio.run_process`` (which starts them in
another thread) are not.  Needs root.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TAP = "cvqd0"
ADDRESS = "10.77.0.1"
_CLONE_NEWNET = 0x40000000  # linux/sched.h


def obstacle() -> str | None:
    """Why there can be none here; None if there can."""
    if os.geteuid() != 0:
        return "a network namespace of one's own needs root"
    try:
        with own_network():
            pass
    except OSError as error:
        return f"no network namespace or no /dev/net/tun: {error.strerror}"
    except subprocess.CalledProcessError as error:
        return f"no tap interface: {error.stderr.strip()}"
    return None


def ip(command: str) -> str:
    """Output of iproute2's ``ip``, run inside."""
    return subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True).stdout


def wait_until_up(patience: float = 5.0) -> None:
    """Return when the host sends on the interface: some time after somebody has opened it.

    Until then its queue discipline is one that drops everything (linkwatch_do_dev, net/core/link_watch.c).
    """
    deadline = time.monotonic() + patience
    while "state UP" not in ip(f"link show dev {TAP}"):
        assert time.monotonic() < deadline, f"{TAP} did not come up within {patience} s"


@contextmanager
def own_network() -> Iterator[None]:
    """Move this thread into a new namespace with the interface ``TAP``, which is up at ``ADDRESS``/24."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            ip(f"tuntap add dev {TAP} mode tap")
            # the kernel's own router and group messages are nothing a test waits for
            ip(f"link set dev {TAP} addrgenmode none")
            ip(f"addr add {ADDRESS}/24 dev {TAP}")
            ip(f"link set dev {TAP} up")
            yield
        finally:
            assert libc.setns(before, _CLONE_NEWNET) == 0
    finally:
        os.close(before)
