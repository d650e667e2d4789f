"""Ends of cables that several simulators can share: the one that runs is plugged in.

A guest that moves from one simulator to another takes its network along, as if
somebody replugged a cable: frames that arrive in between wait in the socket or
interface, and a tap interface that the daemon created does not vanish.  An end
is open as long as any simulator is joined to it, so one that cannot be opened
is noticed before any guest depends on it.
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
        """Send and receive through ``outside`` from now on, or with None not at all."""


class Outlet:
    """One open end; at most one device is plugged in."""

    def __init__(self, outside: Outside, closed: Callable[[], None]) -> None:
        self._outside = outside
        self._closed = closed
        self._device: Socketed | None = None
        self.names = 0

    def join(self, device: Socketed) -> None:
        """Share the end, and plug the device in if no other is."""
        self.names += 1
        if self._device is None:
            self.claim(device)

    def claim(self, device: Socketed) -> None:
        """Plug the device in, and unplug any other."""
        if self._device is not device:
            if self._device is not None:
                self._device.plug(None)
            self._device = device
            device.plug(self._outside)

    def leave(self, device: Socketed) -> None:
        """Stop sharing the end; the last device to leave closes it."""
        if self._device is device:
            device.plug(None)
            self._device = None
        self.names -= 1
        if not self.names:
            self._outside.__exit__(None, None, None)
            self._closed()


class Outlets:
    """The open ends of one instance, by path."""

    def __init__(self) -> None:
        self._open: dict[PeerPath | TapPath, Outlet] = {}

    def get(self, path: PeerPath | TapPath) -> Outlet:
        """The end at a path, opened if necessary, to be joined; DeviceError if it cannot be opened."""
        outlet = self._open.get(path)
        if outlet is None:
            outside: Outside = Peer(path) if isinstance(path, PeerPath) else Tap(path)
            outlet = Outlet(outside.__enter__(), partial(self._open.__delitem__, path))
            self._open[path] = outlet
        return outlet
