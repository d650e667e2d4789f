"""The service: one device, one front-end socket, one control socket, until a signal ends it.

The tree of tasks is this file; what they do is elsewhere.  The device is open
before the sockets exist and closed after them, so whoever connects finds a
device, and a daemon that cannot have its device never listens.
"""

from __future__ import annotations

import gc
import os
from contextlib import asynccontextmanager, closing
from errno import ENODEV
from typing import TYPE_CHECKING, Final, Protocol

import trio

from cvqd import __version__, sockets, watchdog
from cvqd.backend import Backend
from cvqd.config import CharDevice, IsolationPolicy
from cvqd.errors import UnavailableError
from cvqd.host import control
from cvqd.host.doorbell import Doorbell, DoorbellSet
from cvqd.host.notify import Notifier
from cvqd.instance import Instance
from cvqd.journal import Journal
from cvqd.limits import Limits
from cvqd.owned_device import OwnedDevice
from cvqd.owner import Owner
from cvqd.reload import Reloader
from cvqd.signals import await_end, ending, report
from cvqd.simulator.device import SimulatedDevice
from cvqd.status import ProbeReport, device_status, probe_report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cvqd.config import Config, DeviceConfig
    from cvqd.core.device import VdpaDevice
    from cvqd.events import EventLog
    from cvqd.instance import FollowedLog
    from cvqd.reload import LeveledLog

    class ServiceLog(LeveledLog, FollowedLog, Protocol):
        """What a service asks of its log."""


#: seconds that the end may take beside the deadline of the commands that are in flight
_STOP: Final = 10.0

#: seconds for a device that is going away to answer what it was asked before
_REMOVAL_PATIENCE: Final = 0.5

# sysexits.h
_UNAVAILABLE: Final = 69


async def run(config: Config, *, file: str, socket_path: str | None, fd: int | None, log: ServiceLog) -> None:
    """Own the configured device and serve front-ends until SIGTERM or SIGINT; SIGHUP reads ``file`` again.

    ``socket_path`` and ``fd`` (listening or connected) take the place of the configured socket, and so do
    sockets of the service manager's.  CvqdError where the device or a socket cannot be had.
    """
    notifier = Notifier.from_environment(os.environ, log)
    with closing(notifier), ending() as signals:
        async with open_device(config.device, log) as device, trio.open_nursery() as nursery:
            journal = Journal(log)
            owner = await take(device, limits(config), log, journal)
            backend = Backend(owner, log, nursery, offers_inband=config.frontend.inband)

            instance = Instance(config.instance, owner, backend, journal, log)

            def patience() -> float:
                return owner.life.limits.deadline + _STOP

            with sockets.opened(config, socket_path=socket_path, fd=fd) as where:
                if isinstance(config.device, CharDevice):
                    nursery.start_soon(_await_removal, owner, log)
                nursery.start_soon(await_end, signals, nursery.cancel_scope, notifier, patience, log)
                reloader = Reloader(file, config, owner, log, notifier)
                nursery.start_soon(reloader.follow)
                nursery.start_soon(report, instance.status, log)
                nursery.start_soon(watchdog.feed, notifier, owner.pulse, log)
                nursery.start_soon(follow_config, device, backend)
                nursery.start_soon(control.serve, where.control, instance.handlers, log, instance.streams)
                await reloader.listening.wait()
                # what start-up left is here to stay: no collection has to look at it again
                gc.collect()
                gc.freeze()
                log.emit(
                    "service.started", version=__version__, socket=where.frontend_at, control=where.control_at
                )
                waits = f"waits for a front-end at {where.frontend_at}"
                await notifier.status(waits)
                await notifier.ready()
                while (connection := await where.frontend.accept()) is not None:
                    await notifier.status("serves a front-end")
                    async with connection:
                        await backend.serve(connection)
                    await notifier.status(waits)
                nursery.cancel_scope.cancel()
        log.emit("service.stopped")


async def probe(config: DeviceConfig, log: EventLog) -> ProbeReport:
    """Look at a device that nobody runs; it is reset by that."""
    async with open_device(config, log) as device:
        unlimited = Limits(require_isolation=False, deadline=1.0, max_command=256)
        owner = await take(device, unlimited, log, Journal(log))
        shown = device_status(device.kind, device.path, owner.current.facts, owner.current.offer)
        return probe_report(shown, owner.current.isolation)


@asynccontextmanager
async def open_device(config: DeviceConfig, log: EventLog) -> AsyncIterator[VdpaDevice]:
    """The configured device, open and ours; DeviceError where it cannot be had."""
    async with trio.open_nursery() as nursery:
        device: VdpaDevice
        if isinstance(config, CharDevice):
            # its modules are not loaded where the simulator runs
            from cvqd.host.vdpa import CharDevice as OpenCharDevice  # noqa: PLC0415
            from cvqd.host.vdpa_node import find_node  # noqa: PLC0415

            device = await OpenCharDevice.open(config.path or find_node(config.vdpa or ""))
        else:
            device = await SimulatedDevice.open(config, log, nursery)
        try:
            yield device
        finally:
            with trio.CancelScope(shield=True):
                await device.aclose()
            nursery.cancel_scope.cancel()


async def take(device: VdpaDevice, limits: Limits, log: EventLog, journal: Journal) -> Owner:
    """Inspect a device and judge it before anybody connects; DeviceError, IsolationError."""
    owner = Owner(await OwnedDevice.take(device, limits, log), limits, log, journal)
    owner.check_site()
    return owner


def limits(config: Config) -> Limits:
    """The part of a configuration that the owner of a device needs."""
    return Limits(
        require_isolation=config.isolation is IsolationPolicy.REQUIRE,
        deadline=config.control_queue.deadline,
        max_command=config.control_queue.max_command,
        mac=config.device.mac if isinstance(config.device, CharDevice) else None,
        site=config.policy,
    )


async def _await_removal(owner: Owner, log: EventLog) -> None:
    """Fail when the device goes away: whoever removes it waits until it is closed."""
    # nobody who runs on the simulator needs it
    from cvqd.host.removal import wait_removed  # noqa: PLC0415

    path = owner.current.device.path
    try:
        await wait_removed(path)
    except OSError as error:
        log.emit("device.unwatched", path=path, reason=str(error))
        return
    log.emit("device.removed", path=path)
    owner.patience = _REMOVAL_PATIENCE
    raise UnavailableError(path, ENODEV, "the device was removed", _UNAVAILABLE)


async def follow_config(device: VdpaDevice, backend: Backend) -> None:
    """Take the device's configuration interrupts."""
    bell = Doorbell()
    with DoorbellSet() as bells:
        bells.add(bell.fileno())
        await device.set_config_call(bell.fileno())
        try:
            while True:
                await bells.wait()
                await backend.config_changed()
        finally:
            with trio.CancelScope(shield=True):
                await device.set_config_call(-1)
            bell.close()
