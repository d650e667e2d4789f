"""Valid control commands, and ones that each break a rule of virtio 1.3 §5.1.6.5 or IEEE 802."""

from __future__ import annotations

from dataclasses import replace

from cvqd.core.policy import HashLimits, Policy
from cvqd.core.tracked import TrackedState
from cvqd.wire.net_control import (
    AnnounceAck,
    Coalescing,
    CoalRxSet,
    CoalTxSet,
    CoalVqGet,
    CoalVqSet,
    GuestOffloadsSet,
    HashConfig,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxMode,
    RxModeSet,
    StatsGet,
    StatsQuery,
    StatsRequest,
    StatsType,
    Unknown,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.virtio import Feature, mask_of

MAC = bytes.fromhex("525400000001")
STATE = TrackedState(MAC)
LIMITS = HashLimits(key=40, table=128, types=0x3F)
EVERYTHING = Policy(mask_of(*Feature), max_pairs=4, hashing=LIMITS, max_answer=4096)
KEY = bytes(range(40))
RSS = RssConfig(0x3F, 3, 0, (0, 1, 2, 3), 4, KEY)
SOME = Coalescing(8, 50)
RECEIVE = mask_of(StatsType.RX_BASIC, StatsType.RX_CSUM, StatsType.RX_GSO, StatsType.RX_SPEED)
TRANSMIT = mask_of(StatsType.TX_BASIC, StatsType.TX_CSUM, StatsType.TX_GSO, StatsType.TX_SPEED)


def stats(*requests: tuple[int, int]) -> StatsGet:
    return StatsGet(tuple(StatsRequest(queue, types) for queue, types in requests))


ALL = [
    MacAddrSet(MAC),
    MacTableSet((MAC,) * 100, (MAC,) * 1000),
    *(RxModeSet(mode, on) for mode in RxMode for on in (0, 1)),
    VlanAdd(0),
    VlanAdd(4095),
    VlanDel(4095),
    AnnounceAck(),
    VqPairsSet(1),
    VqPairsSet(4),
    RSS,
    RssConfig(0, 0, 3, (3,), 1, b""),
    RssConfig(1, 127, 0, (0,) * 128, 4, b"k"),
    HashConfig(0x3F, KEY),
    HashConfig(0, b""),
    GuestOffloadsSet(0),
    GuestOffloadsSet(mask_of(Feature.GUEST_CSUM, Feature.GUEST_TSO4, Feature.GUEST_USO6)),
    CoalTxSet(SOME),
    CoalRxSet(SOME),
    CoalVqSet(0, SOME),
    CoalVqSet(7, SOME, reserved=0xFFFF),  # §5.1.6.5.9.2: the device ignores reserved
    CoalVqGet(7),
    StatsQuery(),
    stats((0, RECEIVE), (7, TRANSMIT), (8, StatsType.CVQ.mask), (3, 0)),
]

#: command and the name of the rule that refuses it
REFUSED = [
    (Unknown(9, 0), "command.unknown"),
    (Unknown(4, 3), "command.unknown"),
    (Unknown(7, 0), "command.unknown"),
    (RxModeSet(RxMode.PROMISC, 2), "rx.value"),  # §5.1.6.5.1: the data is 0 or 1
    (MacAddrSet(bytes(6)), "mac.not_unicast"),
    (MacAddrSet(bytes.fromhex("01005e000001")), "mac.not_unicast"),
    (VlanAdd(4096), "vlan.id"),  # IEEE 802.1Q: 12 bits
    (VlanDel(65535), "vlan.id"),
    (VqPairsSet(0), "mq.pairs"),  # §5.1.6.5.5.1: 1 to max_virtqueue_pairs
    (VqPairsSet(5), "mq.pairs"),
    # §5.1.6.5.7.2: the number of entries is a power of two
    (replace(RSS, mask=2, table=(0, 1, 2)), "rss.table"),
    # §5.1.6.5.7.2: the mask is less than rss_max_indirection_table_length
    (replace(RSS, mask=255, table=(0,) * 256), "rss.table"),
    # §5.1.6.5.7.1: entries are ids of receive queues there are, bit 15 is zero
    (replace(RSS, table=(0, 1, 2, 4)), "rss.queue"),
    (replace(RSS, table=(0, 1, 2, 0x8001)), "rss.queue"),
    (replace(RSS, unclassified=4), "rss.queue"),
    (replace(RSS, unclassified=0x8000), "rss.queue"),
    (replace(RSS, max_tx_vq=0), "rss.max_tx_vq"),
    (replace(RSS, max_tx_vq=5), "rss.max_tx_vq"),
    # §5.1.6.5.7.2: no type that the device does not support
    (replace(RSS, hash_types=0x40), "hash.types"),
    (HashConfig(0x40, KEY), "hash.types"),
    # §5.1.4: rss_max_key_size is the longest key
    (replace(RSS, key=bytes(41)), "hash.key"),
    (HashConfig(1, bytes(41)), "hash.key"),
    (replace(RSS, key=b""), "hash.key"),
    (HashConfig(1, b""), "hash.key"),
    (HashConfig(1, KEY, b"\0\0\0\0\1\0\0\0"), "hash.reserved"),  # §5.1.6.5.6: reserved is zero
    # §5.1.6.5.8.1: only offloads whose feature was negotiated
    (GuestOffloadsSet(Feature.CSUM.mask), "offloads.not_negotiated"),
    (GuestOffloadsSet(1 << 46), "offloads.not_negotiated"),
    # §5.1.6.5.9.2: only enabled transmit or receive queues
    (CoalVqSet(8, SOME), "coalescing.queue"),
    (CoalVqSet(9, SOME), "coalescing.queue"),
    (CoalVqGet(8), "coalescing.queue"),
    (CoalVqGet(65535), "coalescing.queue"),
    # §5.1.6.5.10.12: a queue there is, types that are its own, each one's feature; one mistake fails all
    (stats((9, 0)), "stats.queue"),
    (stats((0, RECEIVE), (9, 0)), "stats.queue"),
    (stats((0, StatsType.TX_BASIC.mask)), "stats.types"),
    (stats((1, StatsType.RX_BASIC.mask)), "stats.types"),
    (stats((0, StatsType.CVQ.mask)), "stats.types"),
    (stats((8, StatsType.RX_BASIC.mask)), "stats.types"),
    (stats((0, 1 << 4)), "stats.types"),
    (stats((0, 1 << 63)), "stats.types"),
    (stats(*[(0, RECEIVE)] * 30), "stats.too_long"),
]
