"""Events from whichever device the guest is on: configuration interrupts, and its removal."""

from __future__ import annotations

from errno import ENODEV
from typing import TYPE_CHECKING, Final

import trio

from cvqd.errors import UnavailableError
from cvqd.host.doorbell import Doorbell, DoorbellSet
from cvqd.simulator.device import SimulatedDevice

if TYPE_CHECKING:
    from cvqd.events import EventLog
    from cvqd.frontend.backend import Backend
    from cvqd.owner.owner import Owner

#: seconds for a device that is being removed to answer the commands in flight
_REMOVAL_PATIENCE: Final = 0.5

# sysexits.h
_UNAVAILABLE: Final = 69


async def follow_config(owner: Owner, backend: Backend) -> None:
    """Handle the device's configuration interrupts until cancelled."""
    bell = Doorbell()
    with DoorbellSet() as bells:
        bells.add(bell.fileno())
        await owner.listen(bell.fileno())
        try:
            while True:
                await bells.wait()
                await backend.config_changed()
        finally:
            with trio.CancelScope(shield=True):
                # a move under way has lent it to the other device as well
                async with backend.quiet():
                    await owner.listen(-1)
            bell.close()


async def await_removal(owner: Owner, log: EventLog) -> None:
    """UnavailableError when the device is removed: the kernel's removal blocks until we close it."""
    while True:
        moved = owner.moved
        async with trio.open_nursery() as nursery:
            if owner.current.device.kind != SimulatedDevice.kind:
                nursery.start_soon(_watch, owner, log)
            await moved.wait()
            nursery.cancel_scope.cancel()


async def _watch(owner: Owner, log: EventLog) -> None:
    # not needed on the simulator
    from cvqd.host.removal import wait_removed  # noqa: PLC0415

    path = owner.current.device.path
    try:
        await wait_removed(path)
    except OSError as error:
        log.emit("device.unwatched", path=path, reason=str(error))
        return
    log.emit("device.removed", path=path)
    owner.ends(_REMOVAL_PATIENCE)
    raise UnavailableError(path, ENODEV, "the device was removed", _UNAVAILABLE)
