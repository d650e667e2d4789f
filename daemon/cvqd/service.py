"""The service: one device, one front-end socket, one control socket, until a signal ends it.

This file is the tree of tasks; what they do is elsewhere.  The device is opened
before the sockets and closed after them: whoever connects finds a device, and a
daemon that cannot open its device never listens.
"""

from __future__ import annotations

import gc
import os
from contextlib import closing
from typing import TYPE_CHECKING, Final, Protocol

import trio

from cvqd import __version__
from cvqd.config import CharDevice, IsolationPolicy
from cvqd.config.device import OWN_DEVICE
from cvqd.core.limits import Limits
from cvqd.frontend.backend import Backend
from cvqd.host import control
from cvqd.host.notify import Notifier
from cvqd.instance import sockets, watchdog
from cvqd.instance.device_events import await_removal, follow_config
from cvqd.instance.instance import Instance
from cvqd.instance.rehearsals import Rehearsals
from cvqd.instance.reload import Reloader
from cvqd.instance.signals import await_end, ending, report
from cvqd.owner.devices import Devices
from cvqd.owner.owned_device import OwnedDevice
from cvqd.owner.owner import Owner
from cvqd.owner.state_log import keep_state
from cvqd.telemetry.journal import Journal
from cvqd.telemetry.status import ProbeReport, device_status, probe_report

if TYPE_CHECKING:
    from cvqd.config import Config, DeviceConfig
    from cvqd.core.device import VdpaDevice
    from cvqd.core.state_keeper import StateKeeper
    from cvqd.events import EventLog
    from cvqd.host.listener import Connection, Listener
    from cvqd.instance.instance import FollowedLog
    from cvqd.instance.reload import LeveledLog
    from cvqd.owner.devices import DeviceLog

    class ServiceLog(LeveledLog, FollowedLog, DeviceLog, Protocol):
        """What a service needs of its log."""


#: seconds that a shutdown may take on top of the deadline of commands in flight
_STOP: Final = 10.0

#: seconds before accept is tried again after it failed
_BACKLOG_LOOK: Final = 0.1


async def run(config: Config, *, file: str, socket_path: str | None, fd: int | None, log: ServiceLog) -> None:
    """Own the configured device and serve front-ends until SIGTERM or SIGINT; SIGHUP reloads ``file``.

    ``socket_path``, ``fd`` (listening or connected) and sockets passed by the service manager replace the
    configured ones.  CvqdError if the device, a socket or the state directory is not available.
    """
    notifier = Notifier.from_environment(os.environ, log)
    with closing(notifier), ending() as signals, closing(keep_state(config, log)) as kept:
        configs = {OWN_DEVICE: config.device, **config.targets}
        async with Devices.opened(configs, log) as devices, trio.open_nursery() as nursery:
            journal = Journal(log)
            owner = await take(await devices.open(OWN_DEVICE), limits(config), log, journal, kept)
            backend = Backend(owner, log, nursery, offers_inband=config.frontend.inband)

            instance = Instance(config.instance, owner, backend, journal, log)
            rehearsals = Rehearsals(owner, backend, devices, log, nursery)

            def patience() -> float:
                # a move may wait for its source, for its target, and on the way back for its source again
                return owner.life.limits.deadline * (3 if rehearsals.under_way else 1) + _STOP

            handlers = {**instance.handlers, **rehearsals.handlers}
            with sockets.opened(config, socket_path=socket_path, fd=fd) as where:
                nursery.start_soon(await_removal, owner, log)
                nursery.start_soon(await_end, signals, nursery.cancel_scope, notifier, patience, log)
                reloader = Reloader(file, config, owner, log, notifier)
                nursery.start_soon(reloader.follow)
                nursery.start_soon(report, instance.status, log)
                nursery.start_soon(watchdog.feed, notifier, owner.pulse, log)
                nursery.start_soon(follow_config, owner, backend)
                nursery.start_soon(control.serve, where.control, handlers, log, instance.streams)
                await reloader.listening.wait()
                # what start-up allocated stays: keep later garbage collections from scanning it
                gc.collect()
                gc.freeze()
                log.emit(
                    "service.started", version=__version__, socket=where.frontend_at, control=where.control_at
                )
                waits = f"waits for a front-end at {where.frontend_at}"
                await notifier.status(waits)
                await notifier.ready()
                while (connection := await next_frontend(where.frontend, log)) is not None:
                    await notifier.status("serves a front-end")
                    async with connection:
                        await backend.serve(connection)
                    await notifier.status(waits)
                nursery.cancel_scope.cancel()
        log.emit("service.stopped")


async def probe(config: DeviceConfig, log: DeviceLog) -> ProbeReport:
    """Inspect a device that no daemon runs; this resets it."""
    async with Devices.opened({OWN_DEVICE: config}, log) as devices:
        unlimited = Limits(require_isolation=False, deadline=1.0, max_command=256)
        device = await devices.open(OWN_DEVICE)
        owner = await take(device, unlimited, log, Journal(log))
        shown = device_status(device.kind, device.path, owner.current.facts, owner.current.offer)
        return probe_report(shown, owner.current.isolation)


async def take(
    device: VdpaDevice, limits: Limits, log: EventLog, journal: Journal, kept: StateKeeper | None = None
) -> Owner:
    """Inspect a device and judge it before anybody connects; DeviceError, IsolationError."""
    owner = Owner(await OwnedDevice.take(device, limits, log), limits, log, journal, kept)
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


async def next_frontend(listener: Listener, log: EventLog) -> Connection | None:
    """Accept the next front-end; it waits in the backlog while accept fails for want of a descriptor."""
    told = False
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if not told:
                log.emit("frontend.failed", reason=f"accept: {error.strerror}")
            told = True
            await trio.sleep(_BACKLOG_LOOK)
