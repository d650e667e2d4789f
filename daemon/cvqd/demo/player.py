"""The part of the guest: what the story asks of it, whichever guest it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Frame(NamedTuple):
    """An Ethernet frame to send: destination as text, VLAN id of its tag or None, transmit queue."""

    destination: str
    vlan: int | None = None
    queue: int = 0


class Player(Protocol):
    """A guest.  Each method does one thing as the guest does it and returns the words it used for it."""

    @property
    def description(self) -> str:
        """What this guest is."""

    async def bring_up(self) -> str:
        """Load the driver and bring the network card up."""

    async def set_mac(self, mac: str) -> str:
        """Change the card's MAC address."""

    async def set_channels(self, pairs: int) -> str:
        """Use ``pairs`` queue pairs."""

    async def add_vlan(self, vlan: int) -> str:
        """Join a VLAN."""

    async def remove_vlan(self, vlan: int) -> str:
        """Leave a VLAN."""

    async def send(self, frames: Sequence[Frame]) -> list[bool]:
        """Send frames one after the other; which of them came back."""

    async def leave(self) -> str:
        """Shut down."""
