"""When a device starts and stops for a front-end: decided by the session's state, not by its last message.

Front-ends differ in the order of their messages, so no single message starts or
stops the device.  The rule is evaluated again after each one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cvqd.wire.virtio import Status

if TYPE_CHECKING:
    from cvqd.core.session.session import Session


class Readiness(NamedTuple):
    """A session, as far as starting depends on it.

    ``complete`` are rings with memory, NUM, ADDR and KICK; ``enabled`` and
    ``expected`` are ring indices too; ``cvq`` is the index of the guest's control queue or None.
    ``kicked`` says that a ring was kicked before the start, ``unread`` that
    messages of the front-end are waiting unread.

    """

    features_set: bool
    status: int | None
    complete: frozenset[int]
    enabled: frozenset[int]
    expected: frozenset[int]
    cvq: int | None
    kicked: bool
    unread: bool

    @classmethod
    def of(
        cls,
        session: Session,
        *,
        cvq: int | None,
        pairs: int,
        left: frozenset[int],
        kicked: bool,
        unread: bool,
    ) -> Readiness:
        """Readiness of a session whose guest has ``pairs`` queue pairs; rings in ``left`` do not count."""
        data = frozenset(range(2 * pairs))
        return cls(
            features_set=session.features_set,
            status=session.status if session.status_negotiated else None,
            complete=frozenset(i for i in session.rings if i not in left and session.ring_usable(i)),
            enabled=frozenset(index for index, ring in session.rings.items() if ring.enabled),
            expected=data if cvq is None else data | {cvq},
            cvq=cvq,
            kicked=kicked,
            unread=unread,
        )

    @property
    def first_pair(self) -> frozenset[int]:
        """The rings without which nothing runs."""
        return frozenset((0, 1) if self.cvq is None else (0, 1, self.cvq))


def wants_start(ready: Readiness) -> bool:
    """Whether a stopped device should start now."""
    if not ready.features_set or not ready.first_pair <= ready.complete:
        return False
    if ready.status is not None:
        return bool(ready.status & Status.DRIVER_OK)
    if ready.expected <= ready.complete & ready.enabled:
        return True
    # if a front-end leaves rings out, only its guest's first kick shows that it has sent everything
    return ready.kicked and not ready.unread and ready.first_pair & ready.enabled == ready.first_pair


def wants_stop(ready: Readiness, running: frozenset[int]) -> bool:
    """Whether a device that runs these rings should stop now.

    It should if the first pair or the control queue is no longer complete; with STATUS negotiated also
    if DRIVER_OK is gone, without it if none of the rings is enabled.
    """
    if ready.status is not None and not ready.status & Status.DRIVER_OK:
        return True
    if not ready.first_pair <= ready.complete:
        return True
    return ready.status is None and not running & ready.enabled
