"""An instance's status: the answer to ``status``, section by section.

The keys are stable and are the same in ``cvqd status --json``, on the control
socket and, as far as they apply, in ``cvqd probe --json``.  Each section is
made here from the values of ``core``; ``text.status_text`` formats it for
people.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NotRequired, TypedDict, cast

from cvqd.wire.vhost_vdpa import backend_names
from cvqd.wire.virtio import feature_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvqd.core.features import FeatureOffer
    from cvqd.core.isolation import Isolation
    from cvqd.core.lifecycle import DeviceFacts
    from cvqd.core.tracked import TrackedState
    from cvqd.telemetry.journal import Journal, Remembered

SCHEMA: Final = 1

#: ``waiting`` for a front-end, ``connected`` with the device stopped, ``running``
Phase = Literal["waiting", "connected", "running"]


class MaskedStatus(TypedDict):
    """A feature of the device that the guest is not offered."""

    name: str
    reason: str


class DeviceStatus(TypedDict):
    """The device as inspected: feature bits by name, and what it ``lacks`` with the consequence.

    ``queue_size`` is the largest ring it takes, in descriptors.
    """

    kind: str
    path: str
    features: list[str]
    masked: list[MaskedStatus]
    backend: list[str]
    lacks: dict[str, str]
    pairs: int
    queues: int
    queue_size: int
    groups: int
    address_spaces: int


class FrontendStatus(TypedDict):
    """``features`` as the guest took them; ``bridged`` are queues whose calls cvqd passes on."""

    connected: bool
    features: list[str]
    bridged: list[int]


class QueueStatus(TypedDict):
    """One queue's address space; ``group`` is None if the device has no groups."""

    index: int
    role: str
    group: int | None
    asid: int
    reason: str


class IsolationStatus(TypedDict):
    """The verdict in one word, its reason in one sentence, and each queue."""

    verdict: str
    reason: str
    queues: list[QueueStatus]


class MacTableStatus(TypedDict):
    """MAC filter tables; addresses as text."""

    unicast: list[str]
    multicast: list[str]


class SteeringStatus(TypedDict):
    """``mode`` is automatic, hash_report or rss; hash types are shown by name, the hash key is not."""

    mode: str
    hash_types: NotRequired[list[str]]
    table: NotRequired[list[int]]
    unclassified: NotRequired[int]


class CoalescingStatus(TypedDict):
    """``packets`` and ``usecs`` of all queues of a direction, and by index of single queues that differ."""

    tx: dict[str, int]
    rx: dict[str, int]
    queues: dict[str, dict[str, int]]


class StateStatus(TypedDict):
    """Tracked state; ``uncertain`` while an expired command is without an answer.

    ``offloads`` are the receive offloads that are on; ``widened`` means that the device is promiscuous
    because it refused the address tables.
    """

    mac: str
    pairs: int
    rx: dict[str, bool]
    mac_table: MacTableStatus
    vlans: list[int]
    announce: bool
    steering: SteeringStatus
    offloads: list[str]
    coalescing: CoalescingStatus
    widened: bool
    digest: str
    uncertain: bool


class StateLogStatus(TypedDict):
    """The file that a restart reads, or None and the reason why there is none."""

    path: str | None
    reason: str


class CommandStatus(TypedDict):
    """One of the last commands; ``outcome`` is ok, err, refused, malformed or expired, times in µs."""

    command_id: int
    command: str
    outcome: str
    elapsed_us: int
    reason: NotRequired[str]


class CountersStatus(TypedDict):
    """Since the instance started: answers by command and outcome, refusals by reason, the rest by name."""

    answers: dict[str, dict[str, int]]
    refusals: dict[str, int]
    other: dict[str, int]


class ProbeReport(TypedDict):
    """A device that no daemon runs."""

    schema: int
    device: DeviceStatus
    isolation: IsolationStatus


class Status(TypedDict):
    """One instance; ``commands`` are in order, the oldest first."""

    schema: int
    instance: str
    phase: Phase
    device: DeviceStatus
    frontend: FrontendStatus
    isolation: IsolationStatus
    state: StateStatus
    state_log: StateLogStatus
    counters: CountersStatus
    commands: list[CommandStatus]


def device_status(kind: str, path: str, facts: DeviceFacts, offer: FeatureOffer) -> DeviceStatus:
    """Section ``device``."""
    return {
        "kind": kind,
        "path": path,
        "features": feature_names(facts.features),
        "masked": [{"name": entry.name, "reason": entry.reason} for entry in offer.masked],
        "backend": backend_names(facts.backend_features),
        "lacks": facts.lacks,
        "pairs": facts.max_pairs,
        "queues": facts.vqs,
        "queue_size": facts.vring_num,
        "groups": facts.group_count,
        "address_spaces": facts.address_spaces,
    }


def frontend_status(features: int | None, bridged: Iterable[int] = ()) -> FrontendStatus:
    """Section ``frontend``; ``features`` is None if no front-end is connected."""
    return {
        "connected": features is not None,
        "features": feature_names(features or 0),
        "bridged": sorted(bridged),
    }


def isolation_status(isolation: Isolation) -> IsolationStatus:
    """Section ``isolation``."""
    return {
        "verdict": isolation.verdict.value,
        "reason": isolation.reason,
        "queues": [
            {
                "index": queue.index,
                "role": queue.role,
                "group": queue.group,
                "asid": queue.asid,
                "reason": queue.reason,
            }
            for queue in isolation.queues
        ],
    }


def state_status(state: TrackedState, *, uncertain: bool) -> StateStatus:
    """Section ``state``."""
    status: object = {**state.as_dict(), "uncertain": uncertain}
    return cast("StateStatus", status)


def counters_status(journal: Journal, *, quarantined: int) -> CountersStatus:
    """Section ``counters``; ``quarantined`` are slots that expired commands hold now."""
    answers: dict[str, dict[str, int]] = {}
    for (command, outcome), count in sorted(journal.answers.items()):
        answers.setdefault(command, {})[outcome] = count
    return {
        "answers": answers,
        "refusals": dict(sorted(journal.refusals.items())),
        "other": {**journal.counts, "quarantined": quarantined},
    }


def commands_status(recent: Iterable[Remembered]) -> list[CommandStatus]:
    """Section ``commands``."""
    return [_command(command) for command in recent]


def probe_report(device: DeviceStatus, isolation: Isolation) -> ProbeReport:
    """What ``cvqd probe`` shows."""
    return {"schema": SCHEMA, "device": device, "isolation": isolation_status(isolation)}


def _command(command: Remembered) -> CommandStatus:
    shown: CommandStatus = {
        "command_id": command.command_id,
        "command": command.name,
        "outcome": command.outcome,
        "elapsed_us": command.elapsed_us,
    }
    if command.reason:
        shown["reason"] = command.reason
    return shown
