"""A Linux guest on a daemon with a simulated device, and what both say of it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvqd import testing
from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.uml import UmlGuest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OWN = "52:54:00:12:34:56"
NEW = "52:54:00:c0:ff:ee"
FRAMES = Path(testing.__file__).with_name("uml_frames.py")


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


async def frames(guest: UmlGuest, *wanted: str) -> dict[str, str]:
    """Each frame's fate, as the guest's ``uml_frames.py`` says it."""
    said = await guest.check(f"{guest.python()} {guest.path(FRAMES)} eth0 {' '.join(wanted)}")
    return dict(line.split() for line in said.splitlines())


def acks(daemon: DaemonProcess, command: str, after: int = 0) -> list[int]:
    return [
        event["ack"]
        for event in daemon.events[after:]
        if event["event"] == "cvq.command.acked" and event["command"] == command
    ]
