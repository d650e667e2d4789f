"""The rings of one session: what the front-end said of each, checked one message at a time.

Messages may come in any order and be repeated: QEMU's network device enables
rings before it configures them and sets call descriptors before anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cvqd.core.session.effects import (
    RingConfigured,
    RingDescriptor,
    RingDescriptorChanged,
    RingEnabled,
    RingStopped,
)
from cvqd.errors import FrontendError
from cvqd.wire.vhost_user import DescriptorKind

if TYPE_CHECKING:
    from cvqd.wire.split_ring import RingAddresses
    from cvqd.wire.vhost_user import FileDescriptor
    from cvqd.wire.vhost_user_payloads import VringAddress, VringDescriptor, VringState

#: Kinds of file that each descriptor may be.  A kick is handed to the device, which waits only on eventfds;
#: ``virtio_uml`` passes sockets and pipes as calls and expects them to be written to.
_KINDS: Final[dict[RingDescriptor, frozenset[DescriptorKind]]] = {
    RingDescriptor.KICK: frozenset({DescriptorKind.EVENTFD}),
    RingDescriptor.CALL: frozenset({DescriptorKind.EVENTFD, DescriptorKind.SOCKET, DescriptorKind.PIPE}),
    RingDescriptor.ERR: frozenset({DescriptorKind.EVENTFD, DescriptorKind.SOCKET, DescriptorKind.PIPE}),
}


@dataclass(slots=True)
class Ring:
    """``addresses`` are the front-end's own (see ``Session.guest_ring``), ``num`` in descriptors.

    ``num`` is 0 until it is set.  A ring without ``kick`` is stopped.
    """

    num: int = 0
    addresses: RingAddresses | None = None
    base: int = 0
    enabled: bool = False
    kick: FileDescriptor | None = None
    call: FileDescriptor | None = None
    err: FileDescriptor | None = None

    @property
    def configured(self) -> bool:
        """NUM, ADDR and KICK have been set."""
        return self.num > 0 and self.addresses is not None and self.kick is not None


class SessionRings:
    """``rings`` by index; most methods serve one request, whose ``name`` goes into a FrontendError."""

    def __init__(self, count: int, size: int) -> None:
        """Rings 0 to ``count - 1``, of at most ``size`` descriptors."""
        self.rings: dict[int, Ring] = {index: Ring() for index in range(count)}
        #: those of the latest SET_VRING_NUM messages that no SET_VRING_ADDR interrupted
        self.sized_together: set[int] = set()
        self._addressed = False
        self._size = size

    def ring(self, name: str, index: int) -> Ring:
        """The ring of this index; FrontendError if there is none."""
        ring = self.rings.get(index)
        if ring is None:
            raise FrontendError(name, f"there is no ring {index}, only {len(self.rings)}")
        return ring

    def set_num(self, name: str, state: VringState) -> RingConfigured:
        """SET_VRING_NUM: a power of two, as ``drivers/vhost/vhost.c`` demands, up to the device's maximum."""
        ring = self.ring(name, state.index)
        if state.num < 1 or state.num & (state.num - 1):
            raise FrontendError(name, f"size {state.num} of ring {state.index} is not a power of two")
        if state.num > self._size:
            raise FrontendError(
                name, f"size {state.num} of ring {state.index} is above the device's maximum of {self._size}"
            )
        ring.num = state.num
        if self._addressed:
            self.sized_together, self._addressed = set(), False
        self.sized_together.add(state.index)
        return RingConfigured(state.index)

    def set_address(self, name: str, address: VringAddress) -> RingConfigured:
        """SET_VRING_ADDR: kept as sent and translated at start, since memory may come later.

        The flags are ignored: they ask for logging, which is not offered.
        """
        self.ring(name, address.index).addresses = address.addresses
        self._addressed = True
        return RingConfigured(address.index)

    def set_base(self, name: str, state: VringState, most: int) -> RingConfigured:
        """SET_VRING_BASE: where the ring continues, in the encoding of its format; at most ``most``."""
        ring = self.ring(name, state.index)
        if state.num > most:
            raise FrontendError(name, f"base {state.num:#x} of ring {state.index} is above {most:#x}")
        ring.base = state.num
        return RingConfigured(state.index)

    def stop(self, name: str, index: int) -> RingStopped:
        """GET_VRING_BASE: kick and call are dropped, the front-end will send them again."""
        ring = self.ring(name, index)
        effect = RingStopped(index, ring.kick, ring.call)
        ring.kick = ring.call = None
        return effect

    def set_descriptor(
        self,
        name: str,
        which: RingDescriptor,
        target: VringDescriptor,
        unclaimed: list[FileDescriptor],
        *,
        inband: bool = False,
    ) -> RingDescriptorChanged:
        """SET_VRING_KICK, _CALL and _ERR; the descriptor is taken from ``unclaimed``.

        A kick without a descriptor asks for the ring to be polled or, with ``inband``, announces VRING_KICK.
        """
        ring = self.ring(name, target.index)
        if len(unclaimed) != target.present:
            raise FrontendError(name, f"{len(unclaimed)} descriptors, the payload says {int(target.present)}")
        new = unclaimed[0] if unclaimed else None
        if new is None and which is RingDescriptor.KICK and not inband:
            raise FrontendError(name, f"ring {target.index} would have to be polled, which is not served")
        if new is not None and new.kind not in _KINDS[which]:
            kinds = " or ".join(sorted(kind.value for kind in _KINDS[which]))
            raise FrontendError(name, f"a {which.value} descriptor is a {kinds}, not a {new.kind.value}")
        unclaimed.clear()
        # setattr with the enumeration's value would hide these assignments from a type checker
        match which:
            case RingDescriptor.KICK:
                old, ring.kick = ring.kick, new
            case RingDescriptor.CALL:
                old, ring.call = ring.call, new
            case RingDescriptor.ERR:
                old, ring.err = ring.err, new
        return RingDescriptorChanged(target.index, which, old)

    def enable(self, name: str, state: VringState) -> RingEnabled | None:
        """SET_VRING_ENABLE; None if nothing changes."""
        ring = self.ring(name, state.index)
        if state.num > 1:
            raise FrontendError(name, f"ring {state.index} is enabled with {state.num}, neither 0 nor 1")
        if ring.enabled == bool(state.num):
            return None
        ring.enabled = bool(state.num)
        return RingEnabled(state.index)

    def enabled(self) -> frozenset[int]:
        """Indices of the enabled rings."""
        return frozenset(index for index, ring in self.rings.items() if ring.enabled)

    def enable_exactly(self, indices: frozenset[int]) -> None:
        """Enable these rings and disable all others."""
        for index, ring in self.rings.items():
            ring.enabled = index in indices

    def descriptors(self) -> list[FileDescriptor]:
        """Every kick, call and err descriptor that is held."""
        return [
            descriptor
            for ring in self.rings.values()
            for descriptor in (ring.kick, ring.call, ring.err)
            if descriptor is not None
        ]
