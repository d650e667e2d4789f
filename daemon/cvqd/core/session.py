"""The vhost-user session of one front-end: what it said so far, and what it may say next.

For each message: ``receive`` checks it, takes it into the session's data and
returns at most one effect; the glue carries that out on the device; ``reply``
then makes the one answer, if there is to be one.  So whatever a message stops
has stopped before the front-end hears of it.

Front-ends differ in the order of messages (QEMU enables rings before it
configures them, libkrun sends memory before features), therefore no order is
demanded; only what a message needs to be understood.

The session owns every descriptor from the message on until it is replaced,
the ring is stopped, the region removed or ``close`` is called.  It reads none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.core import memory_table
from cvqd.core.memory_table import MemoryRegion
from cvqd.core.session_effects import (
    Effect,
    GetStatus,
    MemoryChanged,
    ReadConfig,
    Refusal,
    ResetDevice,
    Result,
    RingConfigured,
    RingDescriptor,
    RingDescriptorChanged,
    RingEnabled,
    RingStopped,
    SetFeatures,
    SetStatus,
    WriteConfig,
)
from cvqd.core.session_ring import Ring, check_ring_size
from cvqd.core.session_rules import RULES, UNANSWERABLE
from cvqd.errors import FrontendError
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.split_ring import RingAddresses, ring_sizes
from cvqd.wire.virtio import Feature
from cvqd.wire.vhost_user import (
    MAX_TABLE_REGIONS,
    DescriptorKind,
    FrontRequest,
    Message,
    ProtocolFeature,
    encode_reply,
    protocol_feature_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.core.session_offer import Offer
    from cvqd.wire.vhost_user import FileDescriptor


class Session:
    """One connection's worth of vhost-user, without the connection.

    Public data, for the glue to read and never to write: ``features`` (without
    bit 30) and ``features_set``, ``protocol_features``, ``memory``, ``rings``
    (one per index of the offer), ``status``, ``backend_channel``.
    """

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.features = 0
        self.features_set = False
        self.protocol_features = 0
        self.memory: tuple[MemoryRegion, ...] = ()
        self.rings: dict[int, Ring] = {index: Ring() for index in range(offer.rings)}
        self.status = 0
        self.backend_channel: FileDescriptor | None = None

    @property
    def status_negotiated(self) -> bool:
        """The front-end will say DRIVER_OK."""

    def ring_complete(self, index: int) -> bool:
        """Memory, NUM, ADDR and KICK are there; ENABLE is a question of its own."""

    def guest_address(self, user_address: int, length: int) -> int:
        """Guest-physical address of bytes inside one region; FrontendError if there is no such region."""

    def guest_ring(self, index: int) -> RingAddresses:
        """Guest-physical addresses of a complete ring; FrontendError if it lies outside memory or askew."""

    def receive(self, message: Message) -> Effect | None:
        """Check a message and take it in; FrontendError (then ``close``) if the protocol forbids it.

        The message's descriptors are the session's from here on, error or not.
        """

    def reply(self, message: Message, result: Result = None) -> bytes | None:
        """The answer to the message last received, now that its effect has happened; None for no answer.

        FrontendError if a refusal leaves the session unusable and cannot be said.
        """

    def close(self) -> None:
        """Close every descriptor.  The device must have let go of them."""
