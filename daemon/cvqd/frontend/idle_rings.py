"""Rings of a session whose device is stopped: which are kicked, and which their front-end has left.

A kick may be the first sign that a front-end has set up all the rings it
will, so the kick descriptors are watched until a device takes them over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.host.doorbell import drain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvqd.core.session.session import Session
    from cvqd.host.doorbell import DoorbellSet
    from cvqd.wire.vhost_user import FileDescriptor


class IdleRings:
    """Watches kicks with ``kicks``, which is borrowed."""

    def __init__(self, session: Session, kicks: DoorbellSet) -> None:
        self._session = session
        self._kicks = kicks
        #: whether a ring was kicked since the last stop
        self.kicked = False
        self._left: set[int] = set()

    @property
    def left(self) -> frozenset[int]:
        """Rings that a front-end without SET_VRING_ENABLE left, until they get another kick descriptor."""
        return frozenset(self._left)

    async def ring(self) -> None:
        """Wait for a kick."""
        await self._kicks.wait()

    def rang(self) -> None:
        """Note a kick: a front-end that kicks has not left."""
        self.kicked = True
        self._left.clear()

    def leave(self, rings: Iterable[int]) -> None:
        """Note rings that may be freed; only a kick from now on says that they are in use."""
        self._left.update(rings)
        for kick in self._descriptors():
            drain(kick)

    def come_back(self, index: int) -> None:
        """Note that a ring has another kick descriptor."""
        self._left.discard(index)

    def replace(self, old: FileDescriptor | None, new: FileDescriptor | None) -> None:
        """Watch ``new`` instead of ``old``; either may be None."""
        if old is not None:
            self._kicks.discard(old.fileno())
        if new is not None:
            self._kicks.add(new.fileno())

    def begin(self, *, ran: bool) -> None:
        """Watch all, now that the device is stopped; unless it ``ran`` they are watched already."""
        self.kicked = False
        for kick in self._descriptors() if ran else ():
            self._kicks.add(kick)

    def end(self) -> None:
        """Watch none: the device takes them over, or the session ends."""
        for kick in self._descriptors():
            self._kicks.discard(kick)

    def _descriptors(self) -> list[int]:
        return [ring.kick.fileno() for ring in self._session.rings.values() if ring.kick is not None]
