"""The orders in which real front-ends speak, as data: generators of steps.

A sequence yields ``Step`` and is sent the reply's payload (None where there is
none), so one text serves a socket (``FrontEnd.play``) and a ``Session`` in
memory.  Orders as seen on the wire of virtio_uml (``arch/um/drivers/virtio_uml.c``),
QEMU (``hw/virtio/vhost.c``, ``hw/net/vhost_net.c``), crosvm and libkrun.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_user import FrontRequest
from cvqd.wire.vhost_user_payloads import RegionDescription


class Step(NamedTuple):
    """One request; ``answered``: it has a reply of its own, or need_reply is set."""

    request: FrontRequest
    payload: bytes = b""
    descriptors: tuple[int, ...] = ()
    need_reply: bool = False
    answered: bool = False


Sequence = Generator[Step, bytes | None, None]


class RingSetup(NamedTuple):
    """A ring as the front-end hands it over: addresses are the front-end's own."""

    index: int
    num: int
    addresses: RingAddresses
    kick: int
    call: int
    base: int = 0


class GuestSetup(NamedTuple):
    """All a sequence needs: wanted features, memory with its descriptors, rings."""

    features: int
    memory: tuple[tuple[RegionDescription, int], ...]
    rings: tuple[RingSetup, ...]
