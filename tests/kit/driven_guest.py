"""A guest for a daemon in another process: what a test needs to have commands answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.testing.driver import GuestMemory
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.wire.net_control import MacAddrSet
from cvqd.wire.virtio import Feature, mask_of

if TYPE_CHECKING:
    from cvqd.testing.frontend import FrontEnd

MAC_A = bytes.fromhex("525400aa0001")


class DrivenGuest:
    """Memory and four pairs of rings behind a front-end as QEMU would be."""

    def __init__(self, front_end: FrontEnd, memory: GuestMemory | None = None, *, pairs: int = 4) -> None:
        self.front_end = front_end
        self.memory = memory or GuestMemory()
        self.driver = NetDriver(self.memory, pairs)

    async def start(self) -> None:
        offered = await self.front_end.get_features()
        features = offered & ~mask_of(Feature.PROTOCOL_FEATURES, Feature.EVENT_IDX)
        setup = self.driver.setup(features)
        await self.front_end.play(ORDERS["qemu"].connect(setup))
        await self.front_end.play(ORDERS["qemu"].start(setup))

    async def set_mac(self, mac: bytes) -> int:
        return await self.driver.command(MacAddrSet(mac).encode())

    def close(self) -> None:
        self.driver.close()
        self.memory.close()
