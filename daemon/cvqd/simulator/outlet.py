"""Ends of cables that several simulators name: the one that runs has it.

A guest that moves from one simulator to another takes its network along, as if
somebody replugged a cable: frames that arrive in between wait in the end, and
a tap interface that the daemon made does not vanish.  An end is open as long
as a simulator names it, so one that cannot be had is found out before any
guest depends on it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from cvqd.simulator.peer import Peer
from cvqd.simulator.spec import PeerPath
from cvqd.simulator.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.simulator.datapath import Outside
    from cvqd.simulator.spec import TapPath


class Socketed(Protocol):
    """What an outlet needs of a device."""

    def plug(self, outside: Outside | None) -> None:
        """Send and receive there from now on, or nowhere."""


class Outlet:
    """One open end; at most one device is plugged in."""

    def __init__(self, outside: Outside, closed: Callable[[], None]) -> None:
        self._outside = outside
        self._closed = closed
        self._device: Socketed | None = None
        self.names = 0

    def join(self, device: Socketed) -> None:
        """Name the end, and have it if nobody has."""
        self.names += 1
        if self._device is None:
            self.claim(device)

    def claim(self, device: Socketed) -> None:
        """Take the end from whoever has it."""
        if self._device is not device:
            if self._device is not None:
                self._device.plug(None)
            self._device = device
            device.plug(self._outside)

    def leave(self, device: Socketed) -> None:
        """Name it no more; the last one closes it."""
        if self._device is device:
            device.plug(None)
            self._device = None
        self.names -= 1
        if not self.names:
            self._outside.__exit__(None, None, None)
            self._closed()


class Outlets:
    """The open ends of one instance, by what names them."""

    def __init__(self) -> None:
        self._open: dict[PeerPath | TapPath, Outlet] = {}

    def get(self, path: PeerPath | TapPath) -> Outlet:
        """The end at a path, opened if it was not; ``join`` it.  DeviceError if it cannot be had."""
        outlet = self._open.get(path)
        if outlet is None:
            outside: Outside = Peer(path) if isinstance(path, PeerPath) else Tap(path)
            outlet = Outlet(outside.__enter__(), partial(self._open.__delitem__, path))
            self._open[path] = outlet
        return outlet
