"""Three sets of features: offered by the device, offered to the guest, acknowledged on the device.

Offered to the guest = the device's features that cvqd serves, minus
ACCESS_PLATFORM, plus vhost-user's bit 30.  Acknowledged on the device = the
guest's choice, plus ACCESS_PLATFORM and the control bits that cvqd itself
needs.  Every feature that is masked has a reason that people can read.
"""

from __future__ import annotations

from errno import EOPNOTSUPP
from typing import Final, NamedTuple

from cvqd.errors import DeviceError
from cvqd.wire.virtio import REQUIRES, Feature, feature_names, mask_of

#: features of the data path alone: the data queues run straight on the device
DATA_PATH: Final = mask_of(
    Feature.CSUM,
    Feature.GUEST_CSUM,
    Feature.GUEST_TSO4,
    Feature.GUEST_TSO6,
    Feature.GUEST_ECN,
    Feature.GUEST_UFO,
    Feature.GUEST_USO4,
    Feature.GUEST_USO6,
    Feature.HOST_TSO4,
    Feature.HOST_TSO6,
    Feature.HOST_ECN,
    Feature.HOST_UFO,
    Feature.HOST_USO,
    Feature.GSO,
    Feature.MRG_RXBUF,
    Feature.GUEST_HDRLEN,
    Feature.RSC_EXT,
    Feature.MTU,
    Feature.MAC,
    Feature.SPEED_DUPLEX,
    Feature.ANY_LAYOUT,
    Feature.ORDER_PLATFORM,
)

#: control features whose commands are judged, relayed and tracked
CONTROL: Final = mask_of(
    Feature.CTRL_VQ,
    Feature.CTRL_RX,
    Feature.CTRL_RX_EXTRA,
    Feature.CTRL_VLAN,
    Feature.CTRL_MAC_ADDR,
    Feature.MQ,
    Feature.RSS,
    Feature.HASH_REPORT,
    Feature.CTRL_GUEST_OFFLOADS,
    Feature.NOTF_COAL,
    Feature.VQ_NOTF_COAL,
    Feature.DEVICE_STATS,
    Feature.GUEST_ANNOUNCE,
    Feature.STATUS,
)

#: features that bind all rings of a device; the guest queue and the shadow queue implement them too
RINGS: Final = mask_of(Feature.RING_PACKED, Feature.INDIRECT_DESC, Feature.EVENT_IDX)

SERVED: Final = DATA_PATH | CONTROL | RINGS | Feature.VERSION_1.mask

#: served by cvqd if the device lacks them but has a control queue
EMULATED: Final = mask_of(Feature.STATUS, Feature.GUEST_ANNOUNCE)

#: most pairs that fit, with a control queue, into the 256 rings that vhost-user can number
MOST_PAIRS: Final = 127

_REASONS: Final[dict[Feature, str]] = {
    Feature.ACCESS_PLATFORM: "always taken on the device; a guest's addresses are guest-physical",
    Feature.LOG_ALL: "dirty logging is not served",
    Feature.PROTOCOL_FEATURES: "no feature of virtio; vhost-user has this bit",
    Feature.IN_ORDER: "a feature of all rings, and commands that ran out of time come back late",
    Feature.RING_RESET: "vhost-user has no message for it",
    Feature.NOTIFICATION_DATA: "an eventfd carries no data",
    Feature.NOTIF_CONFIG_DATA: "an eventfd carries no data",
    Feature.NOTIFY_ON_EMPTY: "a legacy feature",
    Feature.SR_IOV: "vhost-user has no virtual functions",
    Feature.ADMIN_VQ: "no administration queue is served",
    Feature.SUSPEND: "the device's status is the daemon's",
    Feature.STANDBY: "failover is the front-end's",
}


#: features that affect a device only through commands; MQ also adds rings, HASH_REPORT a longer packet header
_COMMANDED: Final = mask_of(
    *(feature for feature, needs in REQUIRES.items() if needs == (Feature.CTRL_VQ,))
) & ~mask_of(Feature.MQ, Feature.HASH_REPORT)


def meant(guest_features: int) -> int:
    """The part of a guest's choice that means something to a device.

    DPDK's virtio-user keeps CTRL_VQ to itself but passes on the features that need it
    (``virtio_user_dev.c``).
    """
    return guest_features if guest_features & Feature.CTRL_VQ.mask else guest_features & ~_COMMANDED


def objection(features: int) -> str | None:
    """What is wrong with a driver's choice on any device; None if nothing is."""
    if not features & Feature.VERSION_1.mask:
        return "without VERSION_1 its fields would be in the guest's own byte order"
    for feature, needs in REQUIRES.items():
        if features & feature.mask and not features & mask_of(*needs):
            return f"{feature.name} needs {' or '.join(need.name for need in needs)}"
    return None


class Masked(NamedTuple):
    """A feature of the device that is not offered to the guest, and why."""

    name: str
    reason: str


class FeatureOffer(NamedTuple):
    """What the guest may take.

    ``features`` includes bit 30; ``max_pairs`` is the most that the guest can have, ``device_pairs``
    decides the index of the device's control queue; ``emulated`` are the features that cvqd serves itself.
    """

    features: int
    masked: tuple[Masked, ...]
    max_pairs: int
    device_pairs: int
    emulated: int

    @property
    def device_cvq_index(self) -> int:
        """Index of the device's control queue, wherever the guest's is."""
        return 2 * self.device_pairs

    def device_word(self, guest_features: int, device_features: int) -> int:
        """Features to acknowledge on the device, given those that the guest acknowledged."""
        word = (meant(guest_features) & ~self.emulated) | Feature.ACCESS_PLATFORM.mask
        word |= device_features & Feature.CTRL_VQ.mask
        if self.device_pairs > 1:
            # either one moves the control queue to index 2N, virtio 1.3 §5.1.2
            word |= Feature.MQ.mask if device_features & Feature.MQ.mask else Feature.RSS.mask
        if not guest_features & Feature.CTRL_VQ.mask:
            # then only cvqd can tell the device what to receive
            word |= self.features & Feature.CTRL_RX.mask
        word &= ~Feature.PROTOCOL_FEATURES.mask
        return word


def offer(
    device_features: int, max_pairs: int, vqs: int, most_pairs: int | None = None, *, suspends: bool = True
) -> FeatureOffer:
    """Offer for a device with this feature word, configured pairs and number of rings.

    ``most_pairs`` is the site's limit: a guest that is shown more pairs expects to use them.
    ``suspends`` says that the device can be stopped without losing its place in the rings.

    DeviceError if the device cannot be served at all: no VERSION_1 or no ACCESS_PLATFORM.
    """
    for needed, why in (
        (Feature.VERSION_1, "a legacy device cannot be shadowed"),
        (Feature.ACCESS_PLATFORM, "a device that bypasses address translation cannot be isolated"),
    ):
        if not device_features & needed.mask:
            raise DeviceError("VHOST_GET_FEATURES", EOPNOTSUPP, f"the device lacks {needed.name}: {why}")
    reasons: dict[int, str] = {}
    features = device_features
    emulated = 0
    if features & Feature.CTRL_VQ.mask and vqs < 3:
        reasons[Feature.CTRL_VQ] = f"the device offers it with only {vqs} rings"
        features &= ~Feature.CTRL_VQ.mask
    for multiqueue in (Feature.MQ, Feature.RSS):
        if features & multiqueue.mask and vqs < 2 * max_pairs + 1:
            needed_rings = 2 * max_pairs + 1
            reasons[multiqueue] = f"{max_pairs} pairs need {needed_rings} rings and the device has {vqs}"
            features &= ~multiqueue.mask
    if features & Feature.RING_PACKED.mask and not suspends:
        # a split ring keeps its used index in memory, a packed ring does not
        reasons[Feature.RING_PACKED] = "the device cannot suspend, so nobody would know where a ring stopped"
        features &= ~Feature.RING_PACKED.mask
    if features & Feature.CTRL_VQ.mask:
        emulated = EMULATED & ~features
        features |= emulated
    for bit in range(64):
        if features >> bit & 1 and not SERVED >> bit & 1:
            reasons[bit] = _reason(bit)
    features &= SERVED
    for feature, needs in REQUIRES.items():
        if features & feature.mask and not any(features & need.mask for need in needs):
            reasons[feature] = f"needs {' or '.join(need.name for need in needs)}"
            features &= ~feature.mask
    pairs = max_pairs if features & mask_of(Feature.MQ, Feature.RSS) else 1
    masked = tuple(Masked(feature_names(1 << bit)[0], reason) for bit, reason in sorted(reasons.items()))
    shown = min(pairs, MOST_PAIRS, pairs if most_pairs is None else most_pairs)
    return FeatureOffer(features | Feature.PROTOCOL_FEATURES.mask, masked, shown, pairs, emulated)


def _reason(bit: int) -> str:
    try:
        return _REASONS.get(Feature(bit), "its commands are not relayed")
    except ValueError:
        return "unknown to cvqd"
