"""Two devices for a running guest: what a move carries over, and the ways there and back."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvqd.simulator.spec import SUPPORTED_BACKEND_FEATURES, CallFault, Fault, FaultAction, SimulatorSpec
from cvqd.wire.net_control import Coalescing, CoalVqSet, MacAddrSet, RxMode, RxModeSet, VlanAdd
from cvqd.wire.vhost_vdpa import Backend
from cvqd.wire.virtio import Feature, mask_of
from kit.rig import BROADCAST, MAC_A, MAC_B, Guest, Rig, frame, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import trio

HOME = bytes.fromhex("525400127601")
ELSEWHERE = bytes.fromhex("525400127602")
GROUP = bytes.fromhex("01005e000001")
#: a device of the same kind with another address of its own
SPARE = SimulatorSpec(mac=ELSEWHERE, max_queue_pairs=2)
HASHING = mask_of(Feature.HASH_REPORT, Feature.RSS)
PHASES = ["prepare", "suspend", "indices", "replay", "start"]
DRY_PHASES = ["suspend", "snapshot", "compare", "resume"]
NO_RESUME = SUPPORTED_BACKEND_FEATURES & ~Backend.RESUME.mask
LATE = SUPPORTED_BACKEND_FEATURES & ~Backend.ENABLE_AFTER_DRIVER_OK.mask
WAYS_BACK = {
    "resumed": {},
    "started again": {"backend_features": NO_RESUME},
    "started again after a resume that failed": {"call_faults": (CallFault("resume"),)},
    "with queues that cannot be enabled late": {"backend_features": LATE},
}


@asynccontextmanager
async def two(
    directory: Path,
    spec: SimulatorSpec | None = None,
    spare: SimulatorSpec = SPARE,
    order: str = "qemu",
    *,
    shape: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Rig, Guest]]:
    """A guest that runs on ``device``, with ``spare`` to go to."""
    async with (
        Rig.opened(directory, spec, targets={"spare": spare}, **options) as rig,
        rig.guest(order, **(shape or {})) as guest,
    ):
        await guest.start()
        guest.driver.fill(0, 16)
        yield rig, guest


async def rehearse(rig: Rig, to: str = "spare", **words: Any) -> dict[str, Any]:
    answer = await rig.rehearsals.rehearse({"to": to, **words})
    # it goes over a socket
    return json.loads(json.dumps(answer))  # type: ignore[no-any-return]


async def well(guest: Guest) -> None:
    """Frames go out and come back, a command is answered and does what it says."""
    mac = MAC_B if guest.rig.owner.state.mac == MAC_A else MAC_A
    await guest.set_mac(mac)
    assert await guest.echo(frame(mac, b"to myself"))
    assert await guest.echo(frame(BROADCAST, b"to all"))


async def busy(guest: Guest) -> None:
    """State and rings that a move has to take along."""
    await guest.set_mac(MAC_A)
    for command in (VlanAdd(5), CoalVqSet(0, Coalescing(3, 0)), RxModeSet(RxMode.PROMISC, 0)):
        assert await guest.command(command.encode()) == 0
    assert await guest.echo(frame(MAC_A, b"before"))


def waiting(phase: str) -> tuple[Fault, ...]:
    """What has the spare leave a move waiting in its replay."""
    return (Fault("mac.addr_set", FaultAction.DROP),) if phase == "replay" else ()


async def moving(rig: Rig, guest: Guest, nursery: trio.Nursery, phase: str) -> None:
    """A move that waits for a device: for the source in ``suspend``, for the target in ``replay``."""
    if phase == "suspend":
        rig.device.faults.add(Fault("mac.addr_set", FaultAction.DROP))
        guest.driver.post_command(MacAddrSet(MAC_A).encode())
        guest.control.notify()
        await settled()
    else:
        await guest.set_mac()
    nursery.start_soon(rehearse, rig)
    await settled()


def mappings() -> int:
    """Shadow memories of this process."""
    return Path("/proc/self/maps").read_text().count("cvqd-shadow")
