"""Frames between rings: out of transmit rings, through the filter, into receive rings.

Sans-IO: transmitted frames go to a ``Link``, which is the loopback here, the
socket in ``peer`` or the interface in ``tap``.  Outside the rings, frames have
no virtio header; it is removed and added here.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from cvqd.simulator.filter import HEADER_LENGTH, TAG, refusal
from cvqd.simulator.packet import checksum_holds, parse
from cvqd.simulator.steering import NO_HASH, receive_pair
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from cvqd.core.queues.chain import Chain
    from cvqd.simulator.control import Control
    from cvqd.simulator.packet import Packet
    from cvqd.simulator.ring import Ring
    from cvqd.simulator.statistics import Statistics
    from cvqd.simulator.steering import PacketHash

#: bytes of ``struct virtio_net_hdr_v1``, and of ``virtio_net_hdr_v1_hash`` with HASH_REPORT
NET_HEADER: Final = 12
HASH_HEADER: Final = 20
#: VIRTIO_NET_HDR_F_DATA_VALID
DATA_VALID: Final = 2

#: bytes of the longest frame: the largest IP packet with an Ethernet header and a tag
MAX_FRAME: Final = 65535 + 18

#: packets of one ring that are served in one turn, and descriptors after which no further one is
BUDGET: Final = 16
SEGMENTS: Final = 1024

#: an accepted frame found no receive buffer
OVERRUN: Final = "rx.overrun"
#: descriptors or buffers that hold no frame
_MALFORMED: Final = frozenset({"tx.chain", "tx.oversize", "tx.runt"})


class Link(Protocol):
    """Where a transmitted frame goes."""

    def send(self, frame: bytes, pair: int) -> str | None:
        """Take a frame that was transmitted on ``pair``; the drop reason if it is lost."""


class Outside(Link, Protocol):
    """A link that leaves the process, ``Peer`` or ``Tap``: a context manager with a descriptor."""

    def __enter__(self) -> Self:
        """Open it; DeviceError if that fails."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it; harmless when repeated."""

    def fileno(self) -> int:
        """The descriptor, readable when frames have arrived."""

    def arrived(self) -> tuple[list[bytes], bool]:
        """Up to ``BUDGET`` frames that have arrived, and whether there may be more."""


class DataPath:
    """The data rings of a device; ``link`` is set before a ring is served."""

    def __init__(self, rings: Sequence[Ring], control: Control, statistics: Statistics, mtu: int) -> None:
        self._rings = rings
        self._control = control
        self._statistics = statistics
        self._mtu = mtu
        self._touched: Counter[Ring] = Counter()
        self.link: Link = Loopback(self)

    @property
    def header(self) -> int:
        """Bytes before each frame in a ring, virtio 1.3 §5.1.6."""
        return HASH_HEADER if self._control.features & Feature.HASH_REPORT.mask else NET_HEADER

    def transmit(self, ring: Ring) -> bool:
        """Send up to ``BUDGET`` packets of a transmit ring; whether there may be more."""
        header = self.header
        own = self._statistics.queues[ring.index]
        segments = 0
        for _ in range(BUDGET):
            if segments >= SEGMENTS:
                break
            chain = ring.pop()
            if chain is None:
                return False
            if chain.fault is not None:
                reason: str | None = "tx.chain"
            elif chain.readable_length > header + MAX_FRAME:
                reason = "tx.oversize"
            else:
                reason = self._send(chain.read(header + MAX_FRAME)[header:], ring.index // 2)
            segments += chain.descriptors + len(chain.readable) + len(chain.writable)
            ring.complete(chain, 0)
            self._touched[ring] += 1
            if reason is not None:
                self._statistics.drops[reason] += 1
                own["tx_drops"] += 1
                own["tx_drop_malformed"] += reason in _MALFORMED
        return True

    def receive(self, frame: bytes, pair: int) -> None:
        """Offer a frame to the receive ring of ``pair``, or to the one that its hash selects.

        A frame for which there is no room is dropped and counted: a network device does not wait.
        """
        state = self._control.state
        found, packet = NO_HASH, None
        if state.hasher is not None or state.offloads & Feature.GUEST_CSUM.mask:
            packet = parse(frame)
        if state.hasher is not None:
            found = state.hasher.hash(packet)
        if state.rss is not None:
            pair = receive_pair(state.rss, found)
        ring = self._rings[2 * pair]
        reason = self._objection(frame, ring) or self._deliver(frame, ring, packet, found)
        if reason is not None:
            own = self._statistics.queues[ring.index]
            own["rx_drops"] += 1
            if reason == OVERRUN:
                self._statistics.rx_overruns += 1
                own["rx_drop_overruns"] += 1
            else:
                self._statistics.drops[reason] += 1

    def touched(self) -> Counter[Ring]:
        """For each ring, the number of packets completed since the last call."""
        touched, self._touched = self._touched, Counter()
        return touched

    def _objection(self, frame: bytes, ring: Ring) -> str | None:
        """Why a frame must not be delivered, None if it may."""
        if not self._control.link_up:
            return "rx.link_down"
        if len(frame) > MAX_FRAME:
            return "rx.too_long"
        if len(frame) > self._longest(frame):
            return "rx.mtu"
        refused = refusal(self._control.state, frame)
        if refused is not None:
            return refused.value
        return None if ring.enabled else "rx.disabled"

    def _deliver(self, frame: bytes, ring: Ring, packet: Packet | None, found: PacketHash) -> str | None:
        """Write a frame to the ring's next buffers; the drop reason if that fails."""
        flags = self._check(packet, ring)
        packed = self._receive_header(flags, found) + frame
        chains, reason = self._room(ring, len(packed))
        self._touched[ring] += bool(chains)
        if reason is not None:
            for chain in chains:
                ring.complete(chain, 0)
            return reason
        # §5.1.6.4.1: num_buffers is at offset 10 of the header, in the first buffer
        packed = packed[:10] + len(chains).to_bytes(2, "little") + packed[12:]
        for chain in chains:
            written = chain.write(packed)
            ring.complete(chain, written)
            packed = packed[written:]
        own = self._statistics.queues[ring.index]
        self._statistics.rx_packets += 1
        self._statistics.rx_bytes += len(frame)
        own["rx_packets"] += 1
        own["rx_bytes"] += len(frame)
        return None

    def _room(self, ring: Ring, length: int) -> tuple[list[Chain], str | None]:
        """Chains with room for ``length`` bytes in all; or a drop reason, and chains to give back empty.

        One chain, unless MRG_RXBUF lets a packet spread over several.  If they do not suffice, they are
        given back unused: the driver sees packets without a header and posts the buffers again.
        """
        merges, header = bool(self._control.features & Feature.MRG_RXBUF.mask), self.header
        chains: list[Chain] = []
        room = 0
        while room < length:
            if chains and not merges:
                return chains, "rx.too_small"
            chain = ring.pop()
            if chain is None:
                return chains, OVERRUN
            chains.append(chain)
            # §5.1.6.3.1: with MRG_RXBUF every buffer holds a header at least.  So no driver, whatever it adds
            # meanwhile, makes this go on for ever or counts more buffers than num_buffers can.
            if chain.fault is not None or chain.writable_length < header:
                return chains, "rx.chain" if chain.fault is not None else "rx.too_small"
            room += chain.writable_length
        return chains, None

    def _check(self, packet: Packet | None, ring: Ring) -> int:
        """Flags of the header: DATA_VALID for a correct checksum, if the GUEST_CSUM offload is on."""
        if not self._control.state.offloads & Feature.GUEST_CSUM.mask:
            return 0
        holds = None if packet is None else checksum_holds(packet)
        counter = {True: "rx_csum_valid", False: "rx_csum_bad", None: "rx_csum_none"}[holds]
        self._statistics.queues[ring.index][counter] += 1
        return DATA_VALID if holds else 0

    def _receive_header(self, flags: int, found: PacketHash) -> bytes:
        """Header without segmentation, num_buffers still 0; with HASH_REPORT also hash value and type."""
        header = bytes((flags,)) + bytes(NET_HEADER - 1)
        if self.header == NET_HEADER:
            return header
        return header + found.value.to_bytes(4, "little") + found.report.to_bytes(4, "little")

    def _send(self, frame: bytes, pair: int) -> str | None:
        if len(frame) < HEADER_LENGTH:
            return "tx.runt"
        state = self._control.state
        # Only VQ_PAIRS_SET forbids the driver to use other queues (virtio 1.3 §5.1.6.5.5.1).  max_tx_vq only
        # informs, and Linux 6.1 sends a stale one (virtnet_commit_rss_command, drivers/net/virtio_net.c).
        if pair >= state.pairs and state.rss is None:
            return "tx.inactive"
        if not self._control.link_up:
            return "tx.link_down"
        if len(frame) > self._longest(frame):
            return "tx.mtu"
        own = self._statistics.queues[2 * pair + 1]
        self._statistics.tx_packets += 1
        self._statistics.tx_bytes += len(frame)
        own["tx_packets"] += 1
        own["tx_bytes"] += len(frame)
        return self.link.send(frame, pair)

    def _longest(self, frame: bytes) -> int:
        """Most bytes of a frame: with MTU its payload is limited, §5.1.4.1; a tag is not part of it."""
        if not self._control.features & Feature.MTU.mask:
            return MAX_FRAME
        return HEADER_LENGTH + self._mtu + (4 if frame[12:14] == TAG else 0)


class Loopback:
    """Frames come back to the device that sent them, on the same pair."""

    def __init__(self, path: DataPath) -> None:
        self._path = path

    def send(self, frame: bytes, pair: int) -> str | None:
        """Receive the frame at once; losses are counted there."""
        self._path.receive(frame, pair)
        return None


class Unplugged:
    """The link of a device whose end of the cable has been taken by another device."""

    def send(self, frame: bytes, pair: int) -> str | None:  # noqa: ARG002 -- nothing is sent
        """Drop the frame."""
        return "link.unplugged"


UNPLUGGED: Final = Unplugged()
