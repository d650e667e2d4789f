"""Everything that control commands change in the device, in the form that its data path uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from cvqd.simulator.steering import Hasher
from cvqd.wire.net_control import GUEST_OFFLOADS, Coalescing, HashConfig, RssConfig, RxMode
from cvqd.wire.virtio import Feature

#: after a reset the driver is called for each packet, virtio 1.3 §5.1.6.5.9.2
AT_ONCE: Final = Coalescing()


@dataclass(slots=True)
class ControlState:
    """State of one driver's life.

    ``vlans`` is None if CTRL_VLAN was not negotiated: then every tag passes.  ``rss`` is None
    with automatic steering.  ``hasher`` has the types and the key that were configured last.
    ``offloads`` are the receive offloads that are on; ``queue_coalescing`` holds exceptions by ring index.
    """

    mac: bytes
    modes: set[RxMode] = field(default_factory=set)
    unicast: frozenset[bytes] = frozenset()
    multicast: frozenset[bytes] = frozenset()
    vlans: set[int] | None = None
    pairs: int = 1
    announce: bool = False
    rss: RssConfig | None = None
    report: HashConfig | None = None
    hasher: Hasher | None = None
    offloads: int = 0
    tx_coalescing: Coalescing = AT_ONCE
    rx_coalescing: Coalescing = AT_ONCE
    queue_coalescing: dict[int, Coalescing] = field(default_factory=dict)

    @classmethod
    def after_reset(cls, mac: bytes, features: int) -> Self:
        """State in which a driver that negotiated ``features`` finds the device.

        The specification is silent on receive modes.  With CTRL_RX the device
        is promiscuous until told otherwise, like QEMU's.  Without it the driver
        cannot set modes, and the device receives for its own address and for
        every multicast address.
        """
        filters = bool(features & Feature.CTRL_RX.mask)
        return cls(
            mac=mac,
            modes={RxMode.PROMISC if filters else RxMode.ALLMULTI},
            vlans=set() if features & Feature.CTRL_VLAN.mask else None,
            # §5.1.6.5.8.1: negotiating an offload's feature switches it on
            offloads=features & GUEST_OFFLOADS,
        )

    def steer_automatically(self, pairs: int) -> None:
        """VQ_PAIRS_SET: end RSS; hash reports that HASH_CONFIG asked for go on."""
        self.pairs = pairs
        if self.rss is not None:
            self.rss = self.hasher = None

    def steer_by_hash(self, config: RssConfig) -> None:
        """RSS_CONFIG: table, key, types, and the number of transmit queues."""
        self.rss, self.report = config, None
        self.pairs = config.max_tx_vq
        self.hasher = Hasher(config.hash_types, config.key)

    def report_hashes(self, config: HashConfig) -> None:
        """HASH_CONFIG: hashes are for reports, steering is automatic."""
        self.rss, self.report = None, config
        self.hasher = Hasher(config.hash_types, config.key)

    def coalescing(self, queue: int) -> Coalescing:
        """Parameters of a data ring, as set last."""
        own = self.queue_coalescing.get(queue)
        return own if own is not None else (self.tx_coalescing if queue & 1 else self.rx_coalescing)

    def coalesce_all(self, values: Coalescing, *, transmit: bool) -> None:
        """Set all rings of one direction, including the exceptions."""
        if transmit:
            self.tx_coalescing = values
        else:
            self.rx_coalescing = values
        for queue in [queue for queue in self.queue_coalescing if (queue & 1) == transmit]:
            del self.queue_coalescing[queue]
