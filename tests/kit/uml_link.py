"""A Linux guest on a daemon with a simulated device, and what both report."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvqd import testing
from cvqd.simulator.spec import default_features
from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.uml import UmlGuest
from cvqd.wire.virtio import Feature, feature_names, mask_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

OWN = "52:54:00:12:34:56"
NEW = "52:54:00:c0:ff:ee"
FRAMES = Path(testing.__file__).with_name("uml_frames.py")
#: SIOCADDMULTI many times: ``ip -batch`` ends after its first ``maddr``
JOIN = """
import fcntl, socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    for group in range({groups}):
        address = b"\\x01\\x00\\x5e\\x01" + group.to_bytes(2, "big")
        fcntl.ioctl(any_socket, 0x8931, b"eth0".ljust(16, b"\\0") + b"\\0\\0" + address.ljust(22, b"\\0"))
"""


@asynccontextmanager
async def linked(
    directory: Path, *, name: str = "vm0", memory_mib: int = 128, **device: Any
) -> AsyncIterator[tuple[DaemonProcess, UmlGuest]]:
    content = simulator_config(directory, sockets=name, **device)
    async with (
        DaemonProcess.start(directory, content, name=name) as daemon,
        UmlGuest.boot([Path(daemon.socket)], memory_mib=memory_mib) as guest,
    ):
        await guest.load("virtio_net")
        yield daemon, guest


async def state(daemon: DaemonProcess) -> dict[str, Any]:
    return (await daemon.status())["state"]


async def becomes(daemon: DaemonProcess, holds: Callable[[dict[str, Any]], bool]) -> None:
    """Wait for a state: since 6.12 Linux sets receive modes from a work queue, behind what causes them."""
    while True:
        mark = len(daemon.events)
        if holds(await state(daemon)):
            return
        await daemon.event("state.changed", after=mark)


def without(*missing: Feature) -> list[str]:
    """Names of the simulator's features but these, for its configuration."""
    return feature_names(default_features(max_queue_pairs=4) & ~mask_of(*missing))


async def carried(guest: UmlGuest, direction: str) -> dict[int, int]:
    """Packets of each queue, ``direction`` tx or rx; Linux 6.12 shows only the device's own count."""
    said = await guest.check("ethtool -S eth0")
    found = re.findall(rf"{direction}(?:_queue_(\d+)_packets|(\d+)_hw_packets): (\d+)", said)
    return {int(old or new): int(count) for old, new, count in found}


async def frames(guest: UmlGuest, *wanted: str) -> dict[str, str]:
    """Each frame's fate, as the guest's ``uml_frames.py`` says it."""
    said = await guest.check(f"{guest.python()} {guest.path(FRAMES)} eth0 {' '.join(wanted)}")
    return dict(line.split() for line in said.splitlines())


async def join(guest: UmlGuest, groups: int) -> None:
    """Have the guest listen to so many multicast groups, up to 65536."""
    await guest.check(f"{guest.python()} -c '{JOIN.format(groups=groups)}'", deadline=60)


async def acks(daemon: DaemonProcess, command: str, after: int = 0) -> list[int]:
    await daemon.told()
    return [
        event["ack"]
        for event in daemon.events[after:]
        if event["event"] == "cvq.command.acked" and event["command"] == command
    ]
