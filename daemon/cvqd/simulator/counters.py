"""Answers to statistics commands: virtio 1.3 §5.1.6.5.10.

The counters themselves are in ``statistics``; here are the rules for which of
them a driver may ask, and the bytes of the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.wire.control_stats import COUNTERS, StatsBlock
from cvqd.wire.net_control import StatsType
from cvqd.wire.virtio import Feature, control_queue_index, mask_of

if TYPE_CHECKING:
    from cvqd.simulator.statistics import Statistics
    from cvqd.wire.net_control import StatsGet

#: by kind of queue: the types, and for each the features of which one must be negotiated (0: none needed)
_RX: Final = {
    StatsType.RX_BASIC: 0,
    StatsType.RX_CSUM: Feature.GUEST_CSUM.mask,
    StatsType.RX_GSO: mask_of(Feature.GUEST_TSO4, Feature.GUEST_TSO6),
    StatsType.RX_SPEED: 0,
}
_TX: Final = {
    StatsType.TX_BASIC: 0,
    StatsType.TX_CSUM: Feature.CSUM.mask,
    StatsType.TX_GSO: mask_of(Feature.HOST_TSO4, Feature.HOST_TSO6, Feature.HOST_USO),
    StatsType.TX_SPEED: 0,
}
_CONTROL: Final = {StatsType.CVQ: 0}


def capabilities(features: int) -> bytes:
    """Answer to QUERY: the types that a driver with these features may ask for."""
    word = sum(kind.mask for kind, needs in (_RX | _TX | _CONTROL).items() if not needs or features & needs)
    return word.to_bytes(8, "little")


def answer(command: StatsGet, features: int, max_pairs: int, statistics: Statistics) -> bytes | None:
    """Answer to GET; None if any request in it is wrong."""
    control = control_queue_index(features, max_pairs)
    blocks: list[bytes] = []
    for queue, types, _ in command.requests:
        if queue > control:
            return None
        known = _CONTROL if queue == control else _TX if queue & 1 else _RX
        left = types
        for kind, needs in known.items():
            if types & kind.mask and (not needs or features & needs):
                left &= ~kind.mask
                counters = statistics.queues[queue]
                values = tuple(counters[name] for name in COUNTERS[kind])
                blocks.append(StatsBlock(kind, queue, values).encode())
        if left:
            return None
    return b"".join(blocks)
