"""A front-end's messages to a session in memory, with fake descriptors that only record."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cvqd.core.session import effects
from cvqd.core.session.offer import Offer
from cvqd.core.session.session import Session
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.vhost_user import (
    HEADER,
    PROTOCOL_FEATURES_SERVED,
    DescriptorKind,
    FileIdentity,
    FrontRequest,
    Message,
)
from cvqd.wire.virtio import Feature, mask_of

if TYPE_CHECKING:
    from cvqd.wire.split_ring import RingAddresses

R = FrontRequest
EVENTFD, SOCKET, PIPE, FILE = (
    DescriptorKind.EVENTFD,
    DescriptorKind.SOCKET,
    DescriptorKind.PIPE,
    DescriptorKind.FILE,
)
FEATURES = mask_of(Feature.VERSION_1, Feature.MAC, Feature.CTRL_VQ, Feature.MQ)
BIT_30 = Feature.PROTOCOL_FEATURES.mask
OFFER = Offer(features=FEATURES, rings=5, ring_size=256)
_inodes = itertools.count(1)


@dataclass(eq=False)
class FakeFd:
    """A descriptor that remembers whether it was closed."""

    kind: DescriptorKind = EVENTFD
    inode: int = field(default_factory=lambda: next(_inodes))
    closed: bool = False

    @property
    def identity(self) -> FileIdentity:
        return FileIdentity(7, self.inode)

    def fileno(self) -> int:
        assert not self.closed
        return 1000

    def close(self) -> None:
        self.closed = True


def message(request: int, payload: bytes = b"", *descriptors: FakeFd, need_reply: bool = False) -> Message:
    return Message(request, 9 if need_reply else 1, payload, descriptors)


def u64(request: int, value: int, *, need_reply: bool = False) -> Message:
    return message(request, payloads.encode_u64(value), need_reply=need_reply)


def state(request: int, index: int, num: int = 0, *, need_reply: bool = False) -> Message:
    return message(request, payloads.VringState(index, num).encode(), need_reply=need_reply)


def ring_fd(request: int, index: int, fd: FakeFd | None) -> Message:
    payload = payloads.VringDescriptor(index, fd is not None).encode()
    return message(request, payload, *([] if fd is None else [fd]))


def region(guest: int = 0x1000_0000, size: int = 0x10_0000, user: int = 0x7000_0000_0000, offset: int = 0):
    return payloads.RegionDescription(guest, size, user, offset)


def table(*regions: tuple[payloads.RegionDescription, FakeFd]) -> Message:
    payload = payloads.encode_memory_table(tuple(entry for entry, _ in regions))
    return message(R.SET_MEM_TABLE, payload, *(fd for _, fd in regions))


def say(session: Session, said: Message, result: effects.Result = None) -> bytes | None:
    """One message through the session, with a device that does as asked."""
    effect = session.receive(said)
    if result is None:
        match effect:
            case effects.ReadConfig(size=size):
                result = bytes(size)
            case effects.RingStopped(index=index):
                result = session.rings[index].base
            case effects.TransferDeviceState(descriptor=pipe):
                pipe.close()
    return session.reply(said, result)


def negotiated(word: int = PROTOCOL_FEATURES_SERVED, offer: Offer = OFFER) -> Session:
    session = Session(offer)
    say(session, u64(R.SET_PROTOCOL_FEATURES, word))
    return session


def reply_value(reply: bytes | None) -> int:
    assert reply is not None
    _, flags, size = HEADER.unpack(reply[:12])
    assert flags == 5
    assert size == len(reply) - 12 == 8
    return int.from_bytes(reply[12:], "little")


USER = 0x7000_0000_0000


def configured(addresses: RingAddresses, num: int = 64) -> Session:
    session = negotiated()
    say(session, table((region(), FakeFd(FILE))))
    say(session, state(R.SET_VRING_NUM, 0, num))
    say(session, message(R.SET_VRING_ADDR, payloads.VringAddress(0, 1, addresses, 0xBAD).encode()))
    say(session, ring_fd(R.SET_VRING_KICK, 0, FakeFd()))
    return session
