"""What a front-end says, step by step: one request with its payload and descriptors.

The functions make a ``Step`` for every request that the sequences use, from the
``GuestSetup`` of the guest they are for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.wire.vhost_user import FrontRequest
from cvqd.wire.vhost_user_payloads import (
    ConfigAccess,
    RegionDescription,
    VringAddress,
    VringDescriptor,
    VringState,
    encode_memory_table,
    encode_u64,
)

if TYPE_CHECKING:
    from cvqd.wire.split_ring import RingAddresses

#: Requests that are answered whatever their flags say.
ANSWERED: Final = frozenset(
    {
        FrontRequest.GET_FEATURES,
        FrontRequest.GET_PROTOCOL_FEATURES,
        FrontRequest.GET_QUEUE_NUM,
        FrontRequest.GET_VRING_BASE,
        FrontRequest.GET_CONFIG,
        FrontRequest.GET_MAX_MEM_SLOTS,
        FrontRequest.GET_STATUS,
        FrontRequest.SET_DEVICE_STATE_FD,
        FrontRequest.CHECK_DEVICE_STATE,
    }
)


class Step(NamedTuple):
    """One request, with the numbers of the descriptors that go along."""

    request: FrontRequest
    payload: bytes = b""
    descriptors: tuple[int, ...] = ()
    need_reply: bool = False

    @property
    def answered(self) -> bool:
        """A reply is due."""
        return self.need_reply or self.request in ANSWERED


@dataclass(frozen=True, slots=True)
class RingSetup:
    """A ring as the front-end hands it over: addresses are the front-end's own."""

    index: int
    num: int
    addresses: RingAddresses
    kick: int
    call: int
    base: int = 0


class GuestSetup(NamedTuple):
    """All a sequence needs: features to acknowledge (without bit 30), memory with its descriptors, rings."""

    features: int
    memory: tuple[tuple[RegionDescription, int], ...]
    rings: tuple[RingSetup, ...]
    #: descriptor for SET_BACKEND_REQ_FD, or None
    channel: int | None = None
    config_size: int = 24


def u64(request: FrontRequest, value: int, *, need_reply: bool = False) -> Step:
    """A request that carries one number."""
    return Step(request, encode_u64(value), (), need_reply)


def ring_state(request: FrontRequest, index: int, num: int = 0, *, need_reply: bool = False) -> Step:
    """A request about one ring, with a number."""
    return Step(request, VringState(index, num).encode(), (), need_reply)


def ring_descriptor(request: FrontRequest, index: int, fd: int, *, need_reply: bool = False) -> Step:
    """A request that gives a ring a descriptor."""
    return Step(request, VringDescriptor(index, present=True).encode(), (fd,), need_reply)


def ring_address(ring: RingSetup, *, log: int = 0, need_reply: bool = False) -> Step:
    """SET_VRING_ADDR."""
    payload = VringAddress(ring.index, 0, ring.addresses, log).encode()
    return Step(FrontRequest.SET_VRING_ADDR, payload, (), need_reply)


def memory_table(setup: GuestSetup, *, need_reply: bool = False, padding: int = 0) -> Step:
    """SET_MEM_TABLE; ``padding`` bytes behind it, as some send."""
    payload = encode_memory_table(tuple(region for region, _ in setup.memory)) + bytes(padding)
    return Step(FrontRequest.SET_MEM_TABLE, payload, tuple(fd for _, fd in setup.memory), need_reply)


def config(size: int) -> Step:
    """GET_CONFIG of the first ``size`` bytes."""
    return Step(FrontRequest.GET_CONFIG, ConfigAccess(0, 0, bytes(size)).encode())
