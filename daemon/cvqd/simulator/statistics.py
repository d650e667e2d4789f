"""Counters of a simulated device.  They survive a reset, as the kernel simulator's do."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Statistics:
    """Packets, bytes (of frames, without the virtio header) and errors.

    ``queues`` has the counters that a driver can read, by ring index and the names of ``wire.control_stats``.
    ``drops`` counts lost frames by reason; ``iotlb_faults``, ``malformed_chains``
    and ``broken_rings`` count by ring index.  An IOTLB fault is one access that
    the ring's address space did not translate or did not allow.
    """

    rx_packets: int = 0
    rx_bytes: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    #: accepted frames for which there was no receive buffer
    rx_overruns: int = 0
    cvq_requests: int = 0
    cvq_successes: int = 0
    cvq_errors: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    iotlb_faults: Counter[int] = field(default_factory=Counter)
    malformed_chains: Counter[int] = field(default_factory=Counter)
    broken_rings: Counter[int] = field(default_factory=Counter)
    injected_faults: Counter[str] = field(default_factory=Counter)
    queues: defaultdict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def as_dict(self) -> dict[str, object]:
        """All counters, in a form that JSON can hold."""
        return {
            "rx_packets": self.rx_packets,
            "rx_bytes": self.rx_bytes,
            "rx_overruns": self.rx_overruns,
            "tx_packets": self.tx_packets,
            "tx_bytes": self.tx_bytes,
            "cvq_requests": self.cvq_requests,
            "cvq_successes": self.cvq_successes,
            "cvq_errors": self.cvq_errors,
            "drops": dict(self.drops),
            "iotlb_faults": _by_ring(self.iotlb_faults),
            "malformed_chains": _by_ring(self.malformed_chains),
            "broken_rings": _by_ring(self.broken_rings),
            "injected_faults": dict(self.injected_faults),
            "queues": {str(index): dict(counters) for index, counters in sorted(self.queues.items())},
        }


def _by_ring(counter: Counter[int]) -> dict[str, int]:
    return {str(ring): count for ring, count in sorted(counter.items())}
