"""Whether the control queue's memory can be kept from the guest, queue by queue.

Guest memory is address space 0, shadow memory address space 1.  The control
queue is isolated if its virtqueue group can be pointed at address space 1
without taking a data queue along.  The device decides on group membership,
which may depend on negotiated features.  It is therefore judged twice: before a
front-end connects, with all features that a guest can take, and again with
those that it took.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, NamedTuple

from cvqd.wire.vhost_vdpa import Backend

GUEST_ASID: Final = 0
SHADOW_ASID: Final = 1


class Verdict(enum.Enum):
    """Outcome for the device; ``NONE`` where there is no control queue."""

    ISOLATED = "isolated"
    SHARED = "shared"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class QueueVerdict:
    """One queue: where its memory lives and why.  ``group`` is None if the device has no groups."""

    index: int
    role: str
    group: int | None
    asid: int
    reason: str


class Isolation(NamedTuple):
    """The verdict; ``reason`` is a sentence on why the control queue is isolated or is not."""

    verdict: Verdict
    queues: tuple[QueueVerdict, ...]
    reason: str

    @property
    def asid(self) -> int:
        """Address space of the shadow memory."""
        return SHADOW_ASID if self.verdict is Verdict.ISOLATED else GUEST_ASID

    @property
    def cvq(self) -> QueueVerdict | None:
        """The control queue's verdict; None without a control queue."""
        return next((queue for queue in self.queues if queue.role == "control"), None)


def judge(
    *, backend_features: int, address_spaces: int, groups: tuple[int | None, ...], cvq_index: int | None
) -> Isolation:
    """Judge a device whose ring ``i`` is in ``groups[i]``; ``cvq_index`` None means no control queue."""
    if cvq_index is None:
        queues = tuple(
            QueueVerdict(index, _data_role(index), group, GUEST_ASID, "guest memory")
            for index, group in enumerate(groups)
        )
        return Isolation(Verdict.NONE, queues, "the device has no control queue")
    reason = _obstacle(backend_features, address_spaces, groups, cvq_index)
    isolated = reason is None
    own = groups[cvq_index]
    sentence = (
        reason or f"queue {cvq_index} has group {own} to itself and {address_spaces} address spaces exist"
    )
    queues = tuple(
        QueueVerdict(index, _data_role(index), group, GUEST_ASID, "guest memory")
        if index != cvq_index
        else QueueVerdict(index, "control", group, SHADOW_ASID if isolated else GUEST_ASID, sentence)
        for index, group in enumerate(groups)
        if index <= cvq_index
    )
    return Isolation(Verdict.ISOLATED if isolated else Verdict.SHARED, queues, sentence)


def _obstacle(
    backend_features: int, address_spaces: int, groups: tuple[int | None, ...], cvq_index: int
) -> str | None:
    if not backend_features & Backend.IOTLB_ASID.mask:
        return "the kernel does not offer IOTLB_ASID, so all queues use one address space"
    if address_spaces < 2:
        return f"the device has {address_spaces} address space, two are needed"
    own = groups[cvq_index]
    if own is None:
        return "the device does not report virtqueue groups"
    companions = [index for index, group in enumerate(groups) if group == own and index != cvq_index]
    if companions:
        queues = ", ".join(map(str, companions))
        return f"queue {cvq_index} shares group {own} with queue{'s' * (len(companions) > 1)} {queues}"
    return None


def _data_role(index: int) -> str:
    return f"{'transmit' if index & 1 else 'receive'} {index // 2}"
