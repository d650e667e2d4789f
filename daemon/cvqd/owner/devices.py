"""The devices of one instance, by their names in its configuration.

The daemon starts with ``device``; the others are targets.  One device is open
normally, two while the guest moves.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import trio

from cvqd.config.device import OWN_DEVICE, CharDevice, label
from cvqd.errors import RequestError
from cvqd.events import EventLog
from cvqd.owner.owned_device import OwnedDevice
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.outlet import Outlets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from cvqd.config.device import DeviceConfig
    from cvqd.core.device import VdpaDevice
    from cvqd.core.limits import Limits


class DeviceLog(EventLog, Protocol):
    """A log whose lines name the device that the guest is on."""

    def set_device(self, device: str) -> None:
        """Name this device in all further lines."""


class Devices:
    """Opens devices by name; made by ``opened``, which closes those still open at the end."""

    def __init__(self, configs: Mapping[str, DeviceConfig], log: DeviceLog, nursery: trio.Nursery) -> None:
        self._configs = configs
        self._log = log
        self._nursery = nursery
        self._outlets = Outlets()
        self._open: list[VdpaDevice] = []

    @classmethod
    @asynccontextmanager
    async def opened(cls, configs: Mapping[str, DeviceConfig], log: DeviceLog) -> AsyncIterator[Devices]:
        """Devices that can be opened inside the block; ``configs`` has ``device`` and every target."""
        async with trio.open_nursery() as nursery:
            devices = cls(configs, log, nursery)
            try:
                yield devices
            finally:
                for device in list(devices._open):
                    await devices.close(device)
                nursery.cancel_scope.cancel()

    async def take(self, name: str, limits: Limits) -> OwnedDevice:
        """Open and inspect a device; RequestError for an unknown name, DeviceError if it cannot be opened.

        OSError if the system has no memory or descriptor for it.
        """
        device = await self.open(name)
        try:
            return await OwnedDevice.take(device, limits, self._log, name)
        except BaseException:
            # the system may have run out of memory or descriptors
            await self.close(device)
            raise

    async def open(self, name: str) -> VdpaDevice:
        """Open a device; see ``take``."""
        config = self._configs.get(name)
        if config is None:
            raise RequestError(f"there is no device {name!r}, only {', '.join(sorted(self._configs))}")
        device: VdpaDevice
        if isinstance(config, CharDevice):
            # not loaded where only the simulator runs
            from cvqd.host.vdpa import CharDevice as OpenCharDevice  # noqa: PLC0415
            from cvqd.host.vdpa_node import find_node  # noqa: PLC0415

            device = await OpenCharDevice.open(config.path or find_node(config.vdpa or ""))
        else:
            device = await SimulatedDevice.open(
                config, self._log, self._nursery, name=self._label(name), outlets=self._outlets
            )
        self._open.append(device)
        return device

    async def close(self, device: VdpaDevice) -> None:
        """Close a device, even if the caller is cancelled."""
        self._open.remove(device)
        with trio.CancelScope(shield=True):
            await device.aclose()

    def moved(self, device: OwnedDevice) -> None:
        """Have the log name the device that the guest is on now."""
        self._log.set_device(self._label(device.name))

    def _label(self, name: str) -> str:
        config = self._configs[name]
        return label(config) if name == OWN_DEVICE or isinstance(config, CharDevice) else name
