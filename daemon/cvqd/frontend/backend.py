"""The vhost-user back-end of one owner: one front-end after another, and unsolicited messages to them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar, cast

import trio

from cvqd.core.session.offer import Offer
from cvqd.core.session.session import Session
from cvqd.errors import DeviceError, FrontendError, GuestError, RequestError
from cvqd.frontend.call_descriptors import CallDescriptors
from cvqd.frontend.conversation import Conversation
from cvqd.host.backend_channel import send_config_change
from cvqd.host.doorbell import DoorbellSet
from cvqd.owner.owned_device import tell_failed
from cvqd.wire.vhost_user import PROTOCOL_FEATURES_SERVED, ProtocolFeature
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from cvqd.events import EventLog
    from cvqd.host.listener import Connection
    from cvqd.owner.owner import Owner
    from cvqd.telemetry.move import Move

_Error = TypeVar("_Error", bound=BaseException)


class Backend:
    """Serves one front-end after another on behalf of one owner."""

    def __init__(
        self, owner: Owner, log: EventLog, nursery: trio.Nursery, *, offers_inband: bool = False
    ) -> None:
        self._owner = owner
        self._log = log
        self._nursery = nursery
        self._offers_inband = offers_inband
        self._conversation: Conversation | None = None
        self._calls = CallDescriptors(log)
        self._kicks = DoorbellSet()
        self._busy = trio.Lock()

    @property
    def connected(self) -> bool:
        """Whether a front-end is there."""
        return self._conversation is not None

    @property
    def bridged(self) -> frozenset[int]:
        """Rings whose calls pass through the daemon."""
        return self._calls.bridged

    async def serve(self, connection: Connection) -> None:
        """Serve a front-end until it leaves or breaks the protocol; the device is stopped afterwards."""
        offer = self._owner.current.offer
        session = Session(
            Offer(
                offer.features & ~Feature.PROTOCOL_FEATURES.mask,
                rings=2 * offer.max_pairs + 1,
                ring_size=self._owner.current.facts.vring_num,
                protocol_features=self._protocol_features(),
            )
        )
        conversation = self._conversation = Conversation(
            session,
            connection,
            self._owner,
            self._log,
            calls=self._calls,
            kicks=self._kicks,
            turn=self._busy,
            nursery=self._nursery,
        )
        self._log.emit("frontend.connected")
        reason = "the daemon ends"
        try:
            await conversation.run()
            reason = "the front-end closed the connection"
        except* FrontendError as group:
            error = _first(group)
            reason = str(error)
            self._log.emit("frontend.refused", request=error.request, reason=error.reason)
        except* DeviceError as group:
            reason = str(_first(group))
            tell_failed(self._log, _first(group))
        except* GuestError as group:
            reason = str(_first(group))
            self._log.emit("cvq.broken", reason=_first(group).reason, detail=_first(group).detail)
        except* OSError as group:
            reason = str(_first(group))
            self._log.emit("frontend.failed", reason=reason)
        finally:
            with trio.CancelScope(shield=True):
                # a move under way uses what the front-end lent: it has to end first
                async with self._busy:
                    await conversation.hang_up(reason)
            self._conversation = None
            self._log.emit("frontend.disconnected", reason=reason)

    @property
    def _session(self) -> Session | None:
        return self._conversation.session if self._conversation is not None else None

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[Session | None]:
        """Hold back the front-end's messages; yields its session, if there is one."""
        async with self._busy:
            yield self._session

    async def config_changed(self) -> None:
        """Read the configuration again after the device's interrupt, and notify the front-end."""
        # the same interrupt reports a failed device, virtio 1.3 §2.1.2
        self._owner.recovery.suspect()
        async with self._busy:
            try:
                await self._owner.refresh_config()
            except DeviceError as error:
                tell_failed(self._log, error)
                return
            if self._session is not None and self._session.backend_channel is not None:
                send_config_change(self._session.backend_channel)

    async def announce(self) -> None:
        """Ask the guest to announce itself to its network; RequestError if it cannot be asked."""
        async with self._busy:
            channel = self._session.backend_channel if self._session is not None else None
            self._owner.announce()
            if channel is None or not send_config_change(channel):
                raise RequestError("the front-end cannot be told; the guest sees it when it looks next")

    async def move(self, begin: Callable[[], Move], carry_out: Callable[[Move], Awaitable[None]]) -> None:
        """Move the guest to another device while its front-end's messages are held back.

        RequestError, before anything has begun, if nobody is connected.
        """
        async with self._busy:
            owner, conversation = self._owner, self._conversation
            if conversation is None:
                raise RequestError("no front-end is connected")
            session = conversation.session
            ran, told = owner.running, owner.life.config()
            move = begin()
            try:
                await carry_out(move)
            finally:
                # the next driver may take only what both devices offer
                session.narrow(owner.current.offer.features)
                if not owner.running:
                    if ran:
                        conversation.stopped(move.bases)
                elif owner.life.config() != told and session.backend_channel is not None:
                    send_config_change(session.backend_channel)

    def _protocol_features(self) -> int:
        """Without the device's MTU there is nothing to check a front-end's against."""
        has_mtu = self._owner.current.facts.features & Feature.MTU.mask
        served = PROTOCOL_FEATURES_SERVED if has_mtu else PROTOCOL_FEATURES_SERVED & ~ProtocolFeature.MTU.mask
        return served | (ProtocolFeature.INBAND_NOTIFICATIONS.mask if self._offers_inband else 0)


def _first(group: BaseExceptionGroup[_Error]) -> _Error:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return cast("_Error", error)
