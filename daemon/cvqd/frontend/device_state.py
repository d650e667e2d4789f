"""Transfer of the device's state from or to a front-end that migrates its guest.

SET_DEVICE_STATE_FD brings one end of a pipe, CHECK_DEVICE_STATE asks how it
went (QEMU ``docs/interop/vhost-user.rst``, migrating back-end state).  The
bytes are a snapshot.  A pipe may hold less than a snapshot, and the front-end
reads and writes only after it has its answer, so a separate task moves them.

A snapshot that was read is loaded only at CHECK_DEVICE_STATE, in the order of
the front-end's messages, and only if it is complete, well-formed and fits the
device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from cvqd.core.session.effects import Refusal
from cvqd.errors import CvqdError, RequestError
from cvqd.host import pipe
from cvqd.owner import snapshots
from cvqd.wire.snapshot import MAX_SIZE
from cvqd.wire.vhost_user_payloads import TransferDirection

if TYPE_CHECKING:
    from cvqd.core.session.effects import TransferDeviceState
    from cvqd.core.session.session import Session
    from cvqd.events import EventLog
    from cvqd.owner.owner import Owner
    from cvqd.wire.vhost_user import FileDescriptor

#: seconds within which a front-end has to read or write some of the bytes
PATIENCE: Final = 5.0

#: ``how`` in the log
HOW: Final = "front-end"


class _Transfer:
    """One state, in one direction; ``failure`` is the reason, None if all is well, once ``done`` is set."""

    def __init__(self, direction: TransferDirection, data: bytes) -> None:
        self.direction = direction
        self.data = data
        self.failure: str | None = None
        self.done = trio.Event()
        self.scope = trio.CancelScope()


class DeviceState:
    """State transfers of one session, one at a time; their tasks run in ``nursery``."""

    def __init__(self, owner: Owner, log: EventLog, nursery: trio.Nursery) -> None:
        self._owner = owner
        self._log = log
        self._nursery = nursery
        self._transfer: _Transfer | None = None

    def begin(self, asked: TransferDeviceState, session: Session) -> Refusal | None:
        """Start a transfer, replacing one that was never checked; takes over the descriptor."""
        try:
            transfer = _Transfer(asked.direction, self._data(asked.direction, session))
        except CvqdError as error:
            asked.descriptor.close()
            return Refusal(str(error))
        if self._transfer is not None:
            self._transfer.scope.cancel()
        self._transfer = transfer
        self._nursery.start_soon(_move, transfer, asked.descriptor)
        return None

    async def settled(self) -> None:
        """Wait until the last transfer has completed or was given up."""
        if self._transfer is not None:
            await self._transfer.done.wait()

    def check(self) -> Refusal | None:
        """Result of the last transfer, which is settled; state that came in is loaded now."""
        transfer, self._transfer = self._transfer, None
        if transfer is None:
            return Refusal("no state was transferred")
        if transfer.failure is not None:
            self._log.emit("snapshot.refused", reason=transfer.failure, how=HOW)
            return Refusal(transfer.failure)
        if transfer.direction is TransferDirection.LOAD:
            try:
                snapshots.load(self._owner, transfer.data, self._log, HOW)
            except CvqdError as error:
                return Refusal(str(error))
        return None

    def _data(self, direction: TransferDirection, session: Session) -> bytes:
        if self._owner.running:
            raise RequestError("its rings are running")
        if direction is TransferDirection.LOAD:
            return b""
        if not session.features_set:
            # state outlives its front-end for the sake of its guest: another front-end must not get it
            reason = "no guest's driver has been here"
            self._log.emit("snapshot.refused", reason=reason, how=HOW)
            raise RequestError(reason)
        return snapshots.save(self._owner, session.rings, self._log, HOW)


async def _move(transfer: _Transfer, descriptor: FileDescriptor) -> None:
    try:
        with transfer.scope:
            if transfer.direction is TransferDirection.SAVE:
                await pipe.write_all(descriptor.fileno(), transfer.data, PATIENCE)
            else:
                transfer.data = await pipe.read_all(descriptor.fileno(), MAX_SIZE, PATIENCE)
    except OSError as error:
        transfer.failure = error.strerror or str(error)
    finally:
        # closing the pipe marks the end of the bytes
        descriptor.close()
        transfer.done.set()
