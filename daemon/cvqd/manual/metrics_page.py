"""cvqd-metrics(7): what an instance counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.manual.roff import sentence
from cvqd.telemetry import metrics

if TYPE_CHECKING:
    from cvqd.manual.roff import Page
    from cvqd.telemetry.metrics import Metric

SUMMARY: Final = "metrics of the shadow control queue daemon"


def write(page: Page) -> None:
    """Everything below the name."""
    page.section("DESCRIPTION")
    page.paragraph(
        "`cvqd metrics` prints what running instances count, as OpenMetrics text; with `--textfile DIR` it"
        " writes `cvqd.prom` for the textfile collector of node_exporter. Names and labels are stable. No"
        " label takes a value that a guest can make up."
    )
    page.paragraph(
        f"Every sample has the label `{metrics.NAME}`, the instance's name. Durations are in seconds, sizes"
        " in bytes. A counter begins at 0 with the instance."
    )
    page.section("METRICS")
    for metric in metrics.CATALOGUE.values():
        page.item(f"`{metric.sample}`  ({metric.kind})", sentence(metric.meaning), *_labels(metric))
    page.section("EXAMPLES")
    page.paragraph("Commands that the device refused or did not answer, a second, as Prometheus is asked:")
    page.example('sum by (name, outcome) (rate(cvqd_commands_total{outcome=~"err|expired"}[5m]))')
    page.paragraph("Instances whose control queue is not isolated:")
    page.example('cvqd_isolation{verdict="shared"} == 1')
    page.section("SEE ALSO")
    page.paragraph("`cvqd`(8), `cvqd-events`(7)")


def _labels(metric: Metric) -> list[str]:
    return ["Labels: " + ", ".join(f"`{label}`" for label in metric.labels) + "."] if metric.labels else []
