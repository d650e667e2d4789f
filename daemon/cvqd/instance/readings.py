"""Current values of an instance's metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd import __version__
from cvqd.core.isolation import Verdict
from cvqd.events import CATALOGUE as EVENTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cvqd.events import CountingLog
    from cvqd.frontend.backend import Backend
    from cvqd.owner.owner import Owner
    from cvqd.telemetry.journal import Journal
    from cvqd.telemetry.metrics import Reading

_LOUD: Final = ("warning", "error")


def read(
    owner: Owner, backend: Backend, journal: Journal, log: CountingLog, *, started: float
) -> dict[str, Reading]:
    """Every metric of a running instance; ``started`` in seconds since 1970."""
    # a busy guest's last commands may not be counted yet
    journal.tell()
    answers = journal.answers
    return {
        "cvqd_up": 1,
        "cvqd_build": {(__version__,): 1},
        "cvqd_start_time_seconds": round(started, 3),
        "cvqd_frontend_connected": int(backend.connected),
        "cvqd_device_running": int(bool(owner.running)),
        "cvqd_queue_pairs": owner.state.pairs,
        "cvqd_isolation": {
            (verdict.value,): int(verdict is owner.current.isolation.verdict) for verdict in Verdict
        },
        "cvqd_mapped_bytes": owner.memory.bytes,
        "cvqd_commands": {key: count for key, count in answers.items() if key[1] != "late"},
        "cvqd_command_duration_seconds": journal.latency,
        "cvqd_expired_commands": _sum(answers, "expired"),
        "cvqd_late_answers": _sum(answers, "late"),
        "cvqd_refusals": {(reason,): count for reason, count in journal.refusals.items()},
        "cvqd_quarantined_buffers": owner.quarantined,
        "cvqd_device_faults": journal.counts["device_faults"],
        "cvqd_state_changes": log.counts.get("state.changed", 0),
        "cvqd_state_uncertain": int(owner.life.ledger.uncertain),
        "cvqd_state_kept": int(owner.life.kept.path is not None),
        "cvqd_replays": log.counts.get("state.replayed", 0),
        "cvqd_switchover_blackout_seconds": journal.blackouts,
        "cvqd_events": {
            (name, event.level): count
            for name, event in EVENTS.items()
            if (count := log.counts.get(name, 0)) or event.level in _LOUD
        },
        "cvqd_log_lines_limited": log.limited,
        "cvqd_log_lines_dropped": log.dropped,
    }


def _sum(answers: Mapping[tuple[str, str], int], outcome: str) -> int:
    return sum(count for (_, found), count in answers.items() if found == outcome)
