"""From a state to the commands that bring a reset device to it.

The order is safe while the data queues are disabled, and no command depends on a later one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.wire.net_control import (
    GUEST_OFFLOADS,
    CoalVqSet,
    Command,
    GuestOffloadsSet,
    HashConfig,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxMode,
    RxModeSet,
    VlanAdd,
    VqPairsSet,
)
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cvqd.core.tracked import TrackedState


def replay(state: TrackedState, features: int) -> list[Command]:
    """Shortest list of commands from a reset device to ``state``, as far as ``features`` allow.

    They are for a device whose data queues are not enabled yet; ``replay_running`` follows when they are.
    ``rx.promisc`` and ``rx.allmulti`` are always sent, since their value after a reset is not specified.
    """
    return list(_replay(state, features))


def replay_running(state: TrackedState, features: int) -> list[CoalVqSet]:
    """Commands that a device takes only for enabled queues (virtio 1.3 §5.1.6.5.9.2)."""
    return list(state.coalescing.queue_commands()) if features & Feature.VQ_NOTF_COAL.mask else []


def _replay(state: TrackedState, features: int) -> Iterator[Command]:
    if features & Feature.CTRL_MAC_ADDR.mask:
        yield MacAddrSet(state.mac)
    if features & Feature.CTRL_RX.mask and (state.unicast or state.multicast):
        yield MacTableSet(state.unicast, state.multicast)
    yield from _steering(state, features)
    if features & Feature.CTRL_GUEST_OFFLOADS.mask and state.offloads != features & GUEST_OFFLOADS:
        yield GuestOffloadsSet(state.offloads)
    if features & Feature.NOTF_COAL.mask:
        yield from state.coalescing.global_commands()
    if features & Feature.CTRL_RX.mask:
        for mode in (RxMode.PROMISC, RxMode.ALLMULTI):
            yield RxModeSet(mode, state.rx >> mode & 1)
    if features & Feature.CTRL_RX_EXTRA.mask:
        for mode in (RxMode.ALLUNI, RxMode.NOMULTI, RxMode.NOUNI, RxMode.NOBCAST):
            if state.rx >> mode & 1:
                yield RxModeSet(mode, 1)
    if features & Feature.CTRL_VLAN.mask:
        for vid in state.vlan_ids():
            yield VlanAdd(vid)


def _steering(state: TrackedState, features: int) -> Iterator[Command]:
    hashing = state.hashing
    if hashing is not None and not features & hashing.feature.mask:
        hashing = None
    if state.pairs != 1:
        if features & Feature.MQ.mask:
            yield VqPairsSet(state.pairs)
        elif isinstance(hashing, HashConfig) and features & Feature.RSS.mask:
            # without MQ only RSS_CONFIG sets the number of pairs; HASH_CONFIG then ends steering by its table
            yield RssConfig(0, 0, 0, (0,), state.pairs, b"")
    if hashing is not None:
        yield hashing
