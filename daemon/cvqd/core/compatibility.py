"""Whether a device can carry on where another one stopped.

A snapshot is untrusted: whoever wrote it may have had another device, another
cvqd, or ill intent.  Every reason against the move is found before anything is
done, so that it is refused while the source still runs.  The site policy of the
target is not consulted here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.core.features import CONTROL
from cvqd.core.policy import HashLimits, Policy
from cvqd.core.state_commands import carried, state_commands
from cvqd.errors import CompatibilityError, GuestError
from cvqd.wire import net_config
from cvqd.wire.net_config import format_mac
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.virtio import Feature, feature_names, mask_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cvqd.core.features import FeatureOffer
    from cvqd.core.lifecycle import DeviceFacts
    from cvqd.core.tracked import TrackedState
    from cvqd.wire.snapshot import RingBase, Snapshot

_MULTIQUEUE: Final = mask_of(Feature.MQ, Feature.RSS)
_HASHING: Final = mask_of(Feature.RSS, Feature.HASH_REPORT)


def usable(snapshot: Snapshot, offer: FeatureOffer, facts: DeviceFacts) -> TrackedState:
    """The state of a snapshot that the device can carry on from.

    SnapshotError for a snapshot that is inconsistent, CompatibilityError with every reason
    why this device cannot carry on from it.
    """
    state = carried(snapshot)
    if found := shortcomings(snapshot, state, offer, facts):
        raise CompatibilityError(found)
    return state


def shortcomings(
    snapshot: Snapshot, state: TrackedState, offer: FeatureOffer, facts: DeviceFacts
) -> list[str]:
    """Each reason, by name, why a device cannot serve the guest of ``snapshot``; empty if it can.

    ``state`` is the guest's control state, ``offer`` what the target would offer to a guest,
    ``facts`` what the target reports about itself.
    """
    return [
        *_features(snapshot, offer),
        *_config(snapshot, facts),
        *_address(snapshot, state, facts),
        *_commands(snapshot, state, facts),
        *_rings(snapshot, facts),
    ]


def _pairs(snapshot: Snapshot) -> int:
    """Queue pairs that the guest has rings for."""
    return snapshot.max_pairs if snapshot.features & _MULTIQUEUE else 1


def _features(snapshot: Snapshot, offer: FeatureOffer) -> Iterator[str]:
    for name in feature_names(snapshot.features & ~offer.features):
        yield f"features: {name} is not offered"
    if not snapshot.features & Feature.VERSION_1.mask:
        yield "features: the guest's driver is a legacy one"
    # the number of pairs decides which queue is the guest's control queue, virtio 1.3 §5.1.2
    if snapshot.features & _MULTIQUEUE and snapshot.max_pairs != offer.max_pairs:
        yield f"pairs: the guest was offered {snapshot.max_pairs}, here it is {offer.max_pairs}"


def _config(snapshot: Snapshot, facts: DeviceFacts) -> Iterator[str]:
    """Limits in the configuration space that the guest relies on may grow but not shrink."""
    told, here = net_config.decode(snapshot.config), net_config.decode(facts.config)
    if snapshot.features & Feature.MTU.mask and here.mtu < told.mtu:
        yield f"mtu: {here.mtu} is less than the guest's {told.mtu}"
    if snapshot.features & _HASHING:
        if here.rss_max_key_size < told.rss_max_key_size:
            yield f"rss: keys of {here.rss_max_key_size} bytes, the guest was told {told.rss_max_key_size}"
        if missing := told.supported_hash_types & ~here.supported_hash_types:
            yield f"rss: hash types {missing:#x} are not supported"
    if snapshot.features & Feature.RSS.mask:
        most, before = here.rss_max_indirection_table_length, told.rss_max_indirection_table_length
        if most < before:
            yield f"rss: tables of {most} entries, the guest was told {before}"


def _address(snapshot: Snapshot, state: TrackedState, facts: DeviceFacts) -> Iterator[str]:
    own = net_config.decode(facts.config).mac
    settable = Feature.CTRL_MAC_ADDR.mask
    if snapshot.features & (Feature.CTRL_VQ.mask | settable) == Feature.CTRL_VQ.mask and state.mac != own:
        yield f"mac: {format_mac(state.mac)} cannot be set, the device has {format_mac(own)}"


def _commands(snapshot: Snapshot, state: TrackedState, facts: DeviceFacts) -> Iterator[str]:
    """The commands that lead to the state, judged as if the guest had sent them."""
    policy = Policy(
        # cvqd or the site may have set what the guest's own features do not allow
        snapshot.features | CONTROL,
        _pairs(snapshot),
        hashing=HashLimits.of(net_config.decode(facts.config)),
    )
    for command in state_commands(state):
        try:
            policy.judge(command, state)
        except GuestError as error:
            yield f"{command.name}: {error}"


def _rings(snapshot: Snapshot, facts: DeviceFacts) -> Iterator[str]:
    data = 2 * _pairs(snapshot)
    count = data + bool(snapshot.features & Feature.CTRL_VQ.mask)
    ring_format = RingFormat.of(snapshot.features)
    for ring in snapshot.rings:
        if ring.index >= count:
            yield f"ring {ring.index}: the guest has {count} rings"
        if ring.num > facts.vring_num:
            yield f"ring {ring.index}: {ring.num} descriptors, {facts.vring_num} is the most"
        if ring.base is not None and not ring_format.has_base(ring.num, ring.base):
            yield f"ring {ring.index}: {ring.base:#x} is no place among {ring.num} descriptors"
        # data rings only: cvqd itself serves the guest's control queue
        if not facts.keeps_indices and ring.index < data and _used(ring, ring_format):
            yield f"ring {ring.index}: it was used, and the device takes no ring indices"


def _used(ring: RingBase, ring_format: RingFormat) -> bool:
    return ring.base is None or ring.base != ring_format.initial_base
