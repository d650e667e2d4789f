"""Catalogue of metrics and their text, OpenMetrics 1.0.

Names and labels are stable; a test checks the README's table and the dashboard
against this list.  No label takes a value that a guest can make up: commands
that cvqd does not know are ``unknown``, reasons and events are words from the
source.  The values of an instance are read in ``instance.readings``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cvqd.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

#: label of every sample: the instance's name.  Prometheus itself uses ``instance`` for a scrape target.
NAME: Final = "name"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family; a counter's samples are named ``…_total``, an info's ``…_info``."""

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...] = ()
    #: OpenMetrics wants the name to end in it, too
    unit: str = ""

    @property
    def sample(self) -> str:
        """The name that queries use; for a histogram they append ``_bucket``, ``_count`` or ``_sum``."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


#: a single number, one for each combination of label values, or a histogram
Reading = int | float | Mapping[tuple[str, ...], int | float] | Histogram

_ALL: Final = (
    Metric("cvqd_up", "gauge", "1 if the instance answered, 0 if it did not"),
    Metric("cvqd_build", "info", "what runs", ("version",)),
    Metric(
        "cvqd_start_time_seconds", "gauge", "when the instance began, in seconds since 1970", unit="seconds"
    ),
    Metric("cvqd_frontend_connected", "gauge", "1 while a front-end is connected"),
    Metric("cvqd_device_running", "gauge", "1 while the device runs the guest's rings"),
    Metric("cvqd_queue_pairs", "gauge", "queue pairs that the guest uses"),
    Metric("cvqd_isolation", "gauge", "1 at the verdict on the control queue, 0 at the others", ("verdict",)),
    Metric("cvqd_mapped_bytes", "gauge", "guest memory in the device's address space 0", unit="bytes"),
    Metric(
        "cvqd_commands",
        "counter",
        "control commands by the guest's answer: ok, err (the device's), refused, malformed, expired",
        ("command", "outcome"),
    ),
    Metric(
        "cvqd_command_duration_seconds",
        "histogram",
        "from taking a command out of the guest's ring to its answer there",
        unit="seconds",
    ),
    Metric("cvqd_expired_commands", "counter", "commands that the device did not answer within the deadline"),
    Metric("cvqd_late_answers", "counter", "answers of the device to commands that had expired"),
    Metric("cvqd_refusals", "counter", "commands that cvqd refused, by the log's reason", ("reason",)),
    Metric("cvqd_quarantined_buffers", "gauge", "buffers that the device holds for expired commands"),
    Metric("cvqd_device_faults", "counter", "breaches of the virtqueue protocol by the device"),
    Metric("cvqd_state_changes", "counter", "changes of the tracked state"),
    Metric("cvqd_state_uncertain", "gauge", "1 while an expired command may still change the device"),
    Metric("cvqd_state_kept", "gauge", "1 where tracked state outlives the process"),
    Metric("cvqd_replays", "counter", "times that tracked state was put back into a device"),
    Metric(
        "cvqd_switchover_blackout_seconds",
        "histogram",
        "how long no device served the data queues, for each switchover and dry rehearsal",
        unit="seconds",
    ),
    Metric(
        "cvqd_events",
        "counter",
        "log events, written or not; warnings and errors from 0 on, others once they occur",
        ("event", "level"),
    ),
    Metric(
        "cvqd_log_lines_limited", "counter", "log lines left out because too many of an event were caused"
    ),
    Metric("cvqd_log_lines_dropped", "counter", "log lines that standard error did not take in time"),
)

CATALOGUE: Final[dict[str, Metric]] = {metric.name: metric for metric in _ALL}


def render(name: str, readings: Mapping[str, Reading]) -> str:
    """OpenMetrics text of one instance; KeyError for a metric that is not in the catalogue."""
    lines: list[str] = []
    for family, reading in readings.items():
        metric = CATALOGUE[family]
        lines.append(f"# TYPE {family} {metric.kind}")
        if metric.unit:
            lines.append(f"# UNIT {family} {metric.unit}")
        lines.append(f"# HELP {family} {metric.meaning}")
        lines.extend(_samples(metric, name, reading))
    return "\n".join([*lines, "# EOF\n"])


def _samples(metric: Metric, name: str, reading: Reading) -> Iterator[str]:
    own = f'{NAME}="{_escaped(name)}"'
    if isinstance(reading, Histogram):
        for end, count in reading.cumulative():
            shown = "+Inf" if end == float("inf") else repr(end)
            yield f'{metric.name}_bucket{{{own},le="{shown}"}} {count}'
        yield f"{metric.name}_count{{{own}}} {reading.count}"
        yield f"{metric.name}_sum{{{own}}} {reading.sum / 1_000_000!r}"
        return
    if not isinstance(reading, Mapping):
        reading = {(): reading}
    for values, number in sorted(reading.items()):
        pairs = zip(metric.labels, values, strict=True)
        labels = ",".join([own, *(f'{label}="{_escaped(value)}"' for label, value in pairs)])
        yield f"{metric.sample}{{{labels}}} {number}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
