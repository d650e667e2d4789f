"""When a device starts and stops for a front-end: a rule over what is there, not over who said it last.

Front-ends differ in the order of their messages, so no message starts or
stops the device.  After each one the rule is asked again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cvqd.wire.virtio import Status

if TYPE_CHECKING:
    from cvqd.core.session.session import Session


class Readiness(NamedTuple):
    """A session, as far as starting depends on it.

    ``complete`` are rings with memory, NUM, ADDR and KICK; ``enabled`` and
    ``expected`` are ring indices too; ``cvq`` is the guest's control queue or None.
    ``kicked`` says that a ring rang before the start, ``unread`` that the
    front-end has said more than was heard.

    ``keeps_cvq`` says that the guest took a control queue of which its front-end has not said a word:
    if that was all, it keeps the queue (cloud-hypervisor passes CTRL_VQ on and serves the ring itself).
    ``cvq`` is None then.
    """

    features_set: bool
    status: int | None
    complete: frozenset[int]
    enabled: frozenset[int]
    expected: frozenset[int]
    cvq: int | None
    kicked: bool
    unread: bool
    keeps_cvq: bool = False

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
        """Readiness of a session whose guest has ``pairs`` queue pairs; rings in ``left`` are given up."""
        data = frozenset(range(2 * pairs))
        keeps_cvq = cvq is not None and not session.rings[cvq].named
        if keeps_cvq:
            cvq = None
        return cls(
            features_set=session.features_set,
            status=session.status if session.status_negotiated else None,
            complete=frozenset(i for i in session.rings if i not in left and session.ring_usable(i)),
            enabled=frozenset(index for index, ring in session.rings.items() if ring.enabled),
            expected=data if cvq is None else data | {cvq},
            cvq=cvq,
            kicked=kicked,
            unread=unread,
            keeps_cvq=keeps_cvq,
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
    if ready.expected <= ready.complete & ready.enabled and not ready.keeps_cvq:
        return True
    # a front-end that leaves rings out shows only by its guest's first kick that it has said everything
    return ready.kicked and not ready.unread and ready.first_pair & ready.enabled == ready.first_pair


def wants_stop(ready: Readiness, running: frozenset[int]) -> bool:
    """Whether a device that runs these rings should stop now: none of them is complete and enabled."""
    if ready.status is not None and not ready.status & Status.DRIVER_OK:
        return True
    if not ready.first_pair <= ready.complete:
        return True
    return ready.status is None and not running & ready.enabled
