"""Numbers every virtio device shares, and the feature bits of virtio-net.

Source: virtio 1.3 §2.1 (status), §6 (reserved feature bits), §5.1.3 (network).
"""

from __future__ import annotations

import enum
from typing import Final

NET_DEVICE_ID: Final = 1


class Status(enum.IntFlag):
    """Device status byte, virtio 1.3 §2.1."""

    ACKNOWLEDGE = 0x01
    DRIVER = 0x02
    DRIVER_OK = 0x04
    FEATURES_OK = 0x08
    NEEDS_RESET = 0x40
    FAILED = 0x80


class Feature(enum.IntEnum):
    """Feature *bit numbers* as the specification names them."""

    CSUM = 0
    GUEST_CSUM = 1
    CTRL_GUEST_OFFLOADS = 2
    MTU = 3
    MAC = 5
    GSO = 6
    GUEST_TSO4 = 7
    GUEST_TSO6 = 8
    GUEST_ECN = 9
    GUEST_UFO = 10
    HOST_TSO4 = 11
    HOST_TSO6 = 12
    HOST_ECN = 13
    HOST_UFO = 14
    MRG_RXBUF = 15
    STATUS = 16
    CTRL_VQ = 17
    CTRL_RX = 18
    CTRL_VLAN = 19
    CTRL_RX_EXTRA = 20
    GUEST_ANNOUNCE = 21
    MQ = 22
    CTRL_MAC_ADDR = 23
    NOTIFY_ON_EMPTY = 24
    LOG_ALL = 26  #: vhost's, not virtio's
    ANY_LAYOUT = 27
    INDIRECT_DESC = 28
    EVENT_IDX = 29
    PROTOCOL_FEATURES = 30  #: vhost-user's, not virtio's
    VERSION_1 = 32
    ACCESS_PLATFORM = 33
    RING_PACKED = 34
    IN_ORDER = 35
    ORDER_PLATFORM = 36
    SR_IOV = 37
    NOTIFICATION_DATA = 38
    NOTIF_CONFIG_DATA = 39
    RING_RESET = 40
    ADMIN_VQ = 41
    SUSPEND = 43
    DEVICE_STATS = 50
    HASH_TUNNEL = 51
    VQ_NOTF_COAL = 52
    NOTF_COAL = 53
    GUEST_USO4 = 54
    GUEST_USO6 = 55
    HOST_USO = 56
    HASH_REPORT = 57
    GUEST_HDRLEN = 59
    RSS = 60
    RSC_EXT = 61
    STANDBY = 62
    SPEED_DUPLEX = 63

    @property
    def mask(self) -> int:
        """The bit as a value of the 64-bit feature word."""
        return 1 << self


def mask_of(*features: Feature) -> int:
    """Feature word with exactly these bits."""
    word = 0
    for feature in features:
        word |= 1 << feature
    return word


def feature_names(word: int) -> list[str]:
    """Names of the set bits, lowest first; a bit without a name reads ``bit_N``."""
    return [_name(bit) for bit in range(64) if word >> bit & 1]


def _name(bit: int) -> str:
    try:
        return Feature(bit).name
    except ValueError:
        return f"bit_{bit}"


#: feature -> features of which at least one must come with it; virtio 1.3 §5.1.3.1
REQUIRES: Final[dict[Feature, tuple[Feature, ...]]] = {
    Feature.GUEST_TSO4: (Feature.GUEST_CSUM,),
    Feature.GUEST_TSO6: (Feature.GUEST_CSUM,),
    Feature.GUEST_ECN: (Feature.GUEST_TSO4, Feature.GUEST_TSO6),
    Feature.GUEST_UFO: (Feature.GUEST_CSUM,),
    Feature.GUEST_USO4: (Feature.GUEST_CSUM,),
    Feature.GUEST_USO6: (Feature.GUEST_CSUM,),
    Feature.HOST_TSO4: (Feature.CSUM,),
    Feature.HOST_TSO6: (Feature.CSUM,),
    Feature.HOST_ECN: (Feature.HOST_TSO4, Feature.HOST_TSO6),
    Feature.HOST_UFO: (Feature.CSUM,),
    Feature.HOST_USO: (Feature.CSUM,),
    Feature.RSC_EXT: (Feature.HOST_TSO4, Feature.HOST_TSO6),
    Feature.CTRL_GUEST_OFFLOADS: (Feature.CTRL_VQ,),
    Feature.CTRL_RX: (Feature.CTRL_VQ,),
    Feature.CTRL_VLAN: (Feature.CTRL_VQ,),
    Feature.CTRL_RX_EXTRA: (Feature.CTRL_VQ,),
    Feature.GUEST_ANNOUNCE: (Feature.CTRL_VQ,),
    Feature.MQ: (Feature.CTRL_VQ,),
    Feature.CTRL_MAC_ADDR: (Feature.CTRL_VQ,),
    Feature.NOTF_COAL: (Feature.CTRL_VQ,),
    Feature.VQ_NOTF_COAL: (Feature.CTRL_VQ,),
    Feature.DEVICE_STATS: (Feature.CTRL_VQ,),
    Feature.HASH_REPORT: (Feature.CTRL_VQ,),
    Feature.RSS: (Feature.CTRL_VQ,),
}


def control_queue_index(features: int, max_pairs: int) -> int:
    """Index of the control queue for these *negotiated* features, virtio 1.3 §5.1.2.

    2N, where N is ``max_pairs`` with MQ or RSS, else 1.  Without CTRL_VQ it is
    the index that the queue would have.
    """
    if features & (Feature.MQ.mask | Feature.RSS.mask):
        return 2 * max_pairs
    return 2
