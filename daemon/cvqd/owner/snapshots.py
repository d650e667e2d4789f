"""Snapshots of the owned device: saved as bytes, and loaded for the next start.

The caller (for an operator, or for a front-end that moves its guest) gives ``how`` for the log and
holds back the front-end's messages meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.core import config_space
from cvqd.core.compatibility import usable
from cvqd.core.restore import replay
from cvqd.core.state_commands import state_commands
from cvqd.errors import CompatibilityError, CvqdError, RequestError
from cvqd.wire.snapshot import MAX_ORIGIN, RingBase, Snapshot, decode, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cvqd.core.queues.guest_ring import GuestRing
    from cvqd.core.session.rings import Ring
    from cvqd.core.tracked import TrackedState
    from cvqd.events import EventLog
    from cvqd.owner.owner import Owner


def taken(
    owner: Owner, rings: Mapping[int, Ring | GuestRing], bases: Mapping[int, int] | None = None
) -> Snapshot:
    """Snapshot of the device, running or not; RequestError if its state is not known.

    ``rings`` are those of the front-end's session.  Only the device knows where a running ring stands:
    ``bases``, if it is suspended.
    """
    bases = bases or {}
    if not owner.features:
        raise RequestError("no guest's driver has been here")
    if owner.life.ledger.uncertain:
        raise RequestError("the state is uncertain: the device still owes the answer to an expired command")
    device, state = owner.current, owner.state
    origin = f"{device.device.kind} {device.device.path}"
    return Snapshot(
        origin="".join(sign if sign.isprintable() else "?" for sign in origin)[: MAX_ORIGIN // 4],
        features=owner.features,
        max_pairs=device.offer.max_pairs,
        config=config_space.overlay(device.config, device.offer, state),
        commands=state_commands(state),
        announce=state.announce,
        digest=state.digest(),
        rings=tuple(
            RingBase(index, ring.num, bases.get(index) if index in owner.running else ring.base)
            for index, ring in sorted(rings.items())
            if ring.num
        ),
    )


def save(owner: Owner, rings: Mapping[int, Ring], log: EventLog, how: str) -> bytes:
    """A snapshot's bytes; RequestError, or SnapshotError for a state that is too large."""
    try:
        snapshot = taken(owner, rings)
        data = encode(snapshot)
    except CvqdError as error:
        log.emit("snapshot.refused", reason=str(error), how=how)
        raise
    log.emit("snapshot.saved", digest=snapshot.digest, bytes=len(data), how=how)
    return data


def load(owner: Owner, data: bytes, log: EventLog, how: str) -> Snapshot:
    """Load a snapshot: the next start goes on from it, whatever its rings look like.

    RequestError while a driver runs, SnapshotError for bytes that are no snapshot,
    CompatibilityError if the device or the site's policy cannot accept it.
    """
    try:
        if owner.running:
            raise RequestError("a guest's driver is running")
        snapshot = decode(data)
        state = usable(snapshot, owner.current.offer, owner.current.facts)
        _check_length(owner, state)
        _check_site(owner, snapshot, state)
    except CvqdError as error:
        log.emit("snapshot.refused", reason=str(error), how=how)
        raise
    owner.life.load(state, snapshot.features, how)
    log.emit("snapshot.loaded", digest=snapshot.digest, bytes=len(data), how=how)
    return snapshot


def _check_length(owner: Owner, state: TrackedState) -> None:
    """A table longer than any guest here could have set cannot be put back either."""
    most = owner.life.limits.max_command
    too_long = [
        f"{command.name}: {length} bytes, control_queue.max_command allows {most}"
        for command in state_commands(state)
        if (length := len(command.encode())) > most
    ]
    if too_long:
        raise CompatibilityError(too_long)


def _check_site(owner: Owner, snapshot: Snapshot, state: TrackedState) -> None:
    """A guest may not bring along what no guest here may ask for."""
    life = owner.life
    word = owner.current.word(snapshot.features, life.limits)
    if broken := life.site.broken_by(replay(state, word)):
        raise CompatibilityError([f"policy: the state breaks {rule}" for rule in broken])
