"""Frames between rings: out of transmit rings, through the filter, into receive rings.

Sans-IO: ``Link`` is where transmitted frames go, the loopback here, the
socket in ``peer`` or the interface in ``tap``.  Frames carry no virtio header outside the rings; the
12-byte header of a VERSION_1 device is taken off and put on here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from cvqd.simulator.filter import HEADER_LENGTH, refusal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from cvqd.simulator.control import Control
    from cvqd.simulator.ring import Ring
    from cvqd.simulator.statistics import Statistics

#: bytes of ``struct virtio_net_hdr_v1``
NET_HEADER: Final = 12
#: no offload, one buffer: without MRG_RXBUF num_buffers is 1, virtio 1.3 §5.1.6.4
_RECEIVE_HEADER: Final = bytes(10) + b"\x01\x00"

#: bytes of the longest frame: what an IPv4 or IPv6 packet can be, with its headers and a tag
MAX_FRAME: Final = 65535 + 18

#: packets served of one ring in one turn
BUDGET: Final = 16


class Link(Protocol):
    """Where a transmitted frame goes."""

    def send(self, frame: bytes, pair: int) -> str | None:
        """Take a frame that pair ``pair`` transmitted; the drop reason if it is lost."""


class Outside(Link, Protocol):
    """A link that leaves the process, ``Peer`` or ``Tap``: a context manager with a descriptor."""

    def __enter__(self) -> Self:
        """Open it; DeviceError if it cannot be had."""

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

    def __init__(self, rings: Sequence[Ring], control: Control, statistics: Statistics) -> None:
        self._rings = rings
        self._control = control
        self._statistics = statistics
        self._touched: set[Ring] = set()
        self.link: Link = Loopback(self)

    def transmit(self, ring: Ring) -> bool:
        """Send up to ``BUDGET`` packets of a transmit ring; whether there may be more."""
        pair = ring.index // 2
        for _ in range(BUDGET):
            chain = ring.pop()
            if chain is None:
                return False
            if chain.fault is not None:
                reason: str | None = "tx.chain"
            elif chain.readable_length > NET_HEADER + MAX_FRAME:
                reason = "tx.oversize"
            else:
                reason = self._send(chain.read(NET_HEADER + MAX_FRAME)[NET_HEADER:], pair)
            ring.complete(chain, 0)
            self._touched.add(ring)
            if reason is not None:
                self._statistics.drops[reason] += 1
        return True

    def receive(self, frame: bytes, pair: int) -> None:
        """Offer a frame to the receive ring of ``pair``, which is active.

        A frame that finds no room is lost and counted: a network device does not wait.
        """
        statistics = self._statistics
        if len(frame) > MAX_FRAME:
            statistics.drops["rx.too_long"] += 1
            return
        refused = refusal(self._control.state, frame)
        if refused is not None:
            statistics.drops[refused.value] += 1
            return
        ring = self._rings[2 * pair]
        if not ring.enabled:
            statistics.drops["rx.disabled"] += 1
            return
        chain = ring.pop()
        if chain is None:
            statistics.rx_overruns += 1
            return
        self._touched.add(ring)
        packet = _RECEIVE_HEADER + frame
        if chain.fault is not None or chain.writable_length < len(packet):
            statistics.drops["rx.chain" if chain.fault is not None else "rx.too_small"] += 1
            ring.complete(chain, 0)
            return
        ring.complete(chain, chain.write(packet))
        statistics.rx_packets += 1
        statistics.rx_bytes += len(frame)

    def touched(self) -> set[Ring]:
        """Rings with completed chains since the last call."""
        touched, self._touched = self._touched, set()
        return touched

    def _send(self, frame: bytes, pair: int) -> str | None:
        if len(frame) < HEADER_LENGTH:
            return "tx.runt"
        if pair >= self._control.state.pairs:
            return "tx.inactive"
        self._statistics.tx_packets += 1
        self._statistics.tx_bytes += len(frame)
        return self.link.send(frame, pair)


class Loopback:
    """Frames come back to the device that sent them, on the same pair."""

    def __init__(self, path: DataPath) -> None:
        self._path = path

    def send(self, frame: bytes, pair: int) -> str | None:
        """Receive the frame at once; losses are counted there."""
        self._path.receive(frame, pair)
        return None
