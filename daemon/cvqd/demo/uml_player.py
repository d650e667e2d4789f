"""A stock Linux kernel plays the guest: its driver sends the control commands."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cvqd import testing
from cvqd.testing.uml import UmlError, UmlGuest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from cvqd.demo.player import Frame

_CARD: Final = "eth0"
_FRAMES: Final = Path(testing.__file__).with_name("uml_frames.py")


class UmlPlayer:
    """Satisfies ``Player`` with shell commands in a User Mode Linux guest."""

    def __init__(self, guest: UmlGuest) -> None:
        self._guest = guest
        self.description = f"Linux {guest.release} (User Mode Linux), its own drivers"

    @classmethod
    @asynccontextmanager
    async def enter(cls, socket: str) -> AsyncIterator[UmlPlayer]:
        """Boot the guest with a network card on the vhost-user ``socket``."""
        async with UmlGuest.boot([Path(socket)]) as guest:
            yield cls(guest)

    async def bring_up(self) -> str:
        """Load the driver and bring the network card up."""
        await self._guest.load("8021q", "sch_mqprio", "virtio_net")
        return "modprobe virtio_net; " + await self._ask(f"ip link set {_CARD} up")

    async def set_mac(self, mac: str) -> str:
        """Change the card's MAC address."""
        return await self._ask(f"ip link set {_CARD} address {mac}")

    async def set_channels(self, pairs: int) -> str:
        """Use ``pairs`` queue pairs, and let a frame's priority choose among them."""
        asked = await self._ask(f"ethtool -L {_CARD} combined {pairs}")
        priorities = " ".join(str(number if number < pairs else 0) for number in range(16))
        queues = " ".join(f"1@{number}" for number in range(pairs))
        await self._guest.check(
            f"tc qdisc replace dev {_CARD} root mqprio num_tc {pairs} map {priorities} queues {queues} hw 0"
        )
        return asked

    async def add_vlan(self, vlan: int) -> str:
        """Join a VLAN."""
        return await self._ask(f"ip link add link {_CARD} name {_CARD}.{vlan} type vlan id {vlan}")

    async def remove_vlan(self, vlan: int) -> str:
        """Leave a VLAN."""
        return await self._ask(f"ip link delete {_CARD}.{vlan}")

    async def send(self, frames: Sequence[Frame]) -> list[bool]:
        """Send frames one after the other; which of them came back."""
        wanted = [
            f"{frame.destination},queue={frame.queue}" + ("" if frame.vlan is None else f",vlan={frame.vlan}")
            for frame in frames
        ]
        guest = self._guest
        script = f"{guest.python()} {guest.path(_FRAMES)} {_CARD} {' '.join(wanted)}"
        lines = (await guest.check(script)).splitlines()
        if [line.split()[0] for line in lines] != wanted:
            raise UmlError(f"the frame sender said: {lines}")
        return [line.endswith(" back") for line in lines]

    async def leave(self) -> str:
        """Shut down."""
        await self._guest.power_off()
        return "poweroff"

    async def _ask(self, command: str) -> str:
        await self._guest.check(command)
        return command
