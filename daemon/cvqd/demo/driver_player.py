"""The shipped driver plays the guest where User Mode Linux is not installed: the same commands, no kernel."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.testing.steps import GuestSetup
from cvqd.testing.uml_frames import BROADCAST, frame
from cvqd.wire import net_config
from cvqd.wire.net_control import (
    OK,
    Command,
    MacAddrSet,
    MacTableSet,
    RxMode,
    RxModeSet,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.virtio import Feature, mask_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from cvqd.demo.player import Frame

#: what Linux's virtio_net takes of the simulator's features
_WANTED: Final = mask_of(
    Feature.MTU,
    Feature.MAC,
    Feature.STATUS,
    Feature.CTRL_VQ,
    Feature.CTRL_RX,
    Feature.CTRL_VLAN,
    Feature.GUEST_ANNOUNCE,
    Feature.MQ,
    Feature.CTRL_MAC_ADDR,
    Feature.VERSION_1,
)
_ORDER: Final = ORDERS["qemu"]


class DriverPlayer:
    """Satisfies ``Player`` with commands on rings of its own, over a vhost-user connection."""

    description: Final = "cvqd's own guest driver, speaking vhost-user as QEMU does"

    def __init__(self, front: FrontEnd, driver: NetDriver, setup: GuestSetup, mac: bytes) -> None:
        self._front = front
        self._driver = driver
        self._setup = setup
        self._mac = mac

    @classmethod
    @asynccontextmanager
    async def enter(cls, socket: str) -> AsyncIterator[DriverPlayer]:
        """Connect to the vhost-user ``socket``."""
        with GuestMemory() as memory:
            async with await FrontEnd.connect(socket) as front:
                await front.play(_ORDER.connect(GuestSetup(_WANTED, (), ())))
                config = net_config.decode(await front.get_config(0, GuestSetup(0, (), ()).config_size))
                with NetDriver(memory, config.max_virtqueue_pairs) as driver:
                    yield cls(front, driver, driver.setup(_WANTED), config.mac)

    async def bring_up(self) -> str:
        """Start the rings and say what Linux says when a card comes up."""
        await self._front.play(_ORDER.start(self._setup))
        for pair in range(self._driver.pairs):
            self._driver.fill(pair)
        return await self._ask(
            RxModeSet(RxMode.PROMISC, 0), RxModeSet(RxMode.ALLMULTI, 0), MacTableSet((), ())
        )

    async def set_mac(self, mac: str) -> str:
        """Change the card's MAC address."""
        self._mac = _address(mac)
        return await self._ask(MacAddrSet(self._mac))

    async def set_channels(self, pairs: int) -> str:
        """Use ``pairs`` queue pairs."""
        return await self._ask(VqPairsSet(pairs))

    async def add_vlan(self, vlan: int) -> str:
        """Join a VLAN."""
        return await self._ask(VlanAdd(vlan))

    async def remove_vlan(self, vlan: int) -> str:
        """Leave a VLAN."""
        return await self._ask(VlanDel(vlan))

    async def send(self, frames: Sequence[Frame]) -> list[bool]:
        """Send frames one after the other, each followed by a broadcast that marks the end of waiting."""
        return [await self._came_back(each) for each in frames]

    async def leave(self) -> str:
        """Stop the rings and hang up."""
        await self._front.play(_ORDER.stop(self._setup))
        self._front.close()
        return "stops its rings and hangs up"

    async def _came_back(self, wanted: Frame) -> bool:
        question, ending = os.urandom(16), os.urandom(16)
        send = self._driver.send_frame
        send(frame(_address(wanted.destination), self._mac, wanted.vlan, question), wanted.queue)
        send(frame(BROADCAST, self._mac, None, ending), wanted.queue)
        seen = False
        while True:
            data = await self._driver.receive_frame(wanted.queue)
            seen = seen or question in data
            if ending in data:
                return seen

    async def _ask(self, *commands: Command) -> str:
        for command in commands:
            if await self._driver.command(command.encode()) != OK:
                raise FrontEndError(f"{command.name} was answered with an error")
        return ", ".join(command.name for command in commands)


def _address(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
