"""The configuration space that the guest sees: the device's, with the fields that cvqd tracks replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.wire import net_config
from cvqd.wire.net_config import LinkStatus
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from cvqd.core.features import FeatureOffer
    from cvqd.core.tracked import TrackedState


def overlay(device: bytes, offer: FeatureOffer, state: TrackedState) -> bytes:
    """Bytes of the guest's configuration space, as long as the device's.

    The address is the tracked one and the number of pairs the one offered.  If
    the device has no status field, the link is up.  A pending announcement of
    the daemon's own sets the announce bit (virtio 1.3 §5.1.4).
    """
    config = net_config.decode(device)
    if offer.emulated & Feature.STATUS.mask:
        config = config._replace(status=LinkStatus.LINK_UP)
    status = config.status | (LinkStatus.ANNOUNCE if state.announce else 0)
    pairs = offer.max_pairs if config.max_virtqueue_pairs else 0
    config = config._replace(mac=state.mac, status=status, max_virtqueue_pairs=pairs)
    return config.encode()[: len(device)] + device[net_config.SIZE :]
