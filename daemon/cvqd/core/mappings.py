"""What is mapped in a device's address spaces, and how it survives a reset.

The kernel keeps its table of mappings through a reset.  The device keeps them
only if IOTLB_PERSIST was acknowledged; otherwise table and device disagree
until everything is invalidated and mapped again (``drivers/vhost/vdpa.c``).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from cvqd.errors import DeviceError
from cvqd.wire.vhost_vdpa import Backend, BatchMark, IotlbMessage, Map, Unmap

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvqd.core.device import VdpaDevice


class Mappings:
    """Sends every IOTLB message of one device and records what is mapped."""

    def __init__(self, device: VdpaDevice, backend_features: int) -> None:
        self._device = device
        self._batch = bool(backend_features & Backend.IOTLB_BATCH.mask)
        self._persist = bool(backend_features & Backend.IOTLB_PERSIST.mask)
        self._spaces: dict[int, dict[int, Map]] = {}

    def mapped(self, asid: int) -> tuple[Map, ...]:
        """Mappings of one address space, lowest address first."""
        return tuple(entry for _, entry in sorted(self._spaces.get(asid, {}).items()))

    async def change(self, asid: int, remove: Iterable[int], add: Iterable[Map]) -> None:
        """Remove mappings by their IOVA, then add others, in one batch.

        After a DeviceError neither the old nor the new ones are mapped.
        """
        space = self._spaces.setdefault(asid, {})
        gone = [space[iova] for iova in remove]
        new = list(add)
        if not gone and not new:
            return
        messages: list[IotlbMessage] = [Unmap(entry.iova, entry.size) for entry in gone]
        for entry in gone:
            del space[entry.iova]
        try:
            await self._send(asid, [*messages, *new])
        except DeviceError:
            # some may have been mapped, and a mapping we do not know of would block its range for ever
            for entry in (*gone, *new):
                with suppress(DeviceError):
                    await self._device.iotlb(asid, [Unmap(entry.iova, entry.size)])
            raise
        for entry in new:
            space[entry.iova] = entry

    async def restore(self) -> None:
        """Map everything again after a reset, unless the mappings survived it."""
        if self._persist:
            return
        for asid, space in self._spaces.items():
            if space:
                await self._send(
                    asid, [*(Unmap(entry.iova, entry.size) for entry in space.values()), *space.values()]
                )

    async def _send(self, asid: int, messages: list[IotlbMessage]) -> None:
        if self._batch:
            messages = [BatchMark.BEGIN, *messages, BatchMark.END]
        try:
            await self._device.iotlb(asid, messages)
        except DeviceError:
            if self._batch:
                # an open batch refuses every other address space (``drivers/vhost/vdpa.c``)
                with suppress(DeviceError):
                    await self._device.iotlb(asid, [BatchMark.END])
            raise
