"""Metrics of several instances merged into one text.

Each daemon gives its own OpenMetrics text (``telemetry.metrics``).  Here families
of the same name are put together, whatever version they come from, and written
either as OpenMetrics again or in Prometheus's older text format, which is all
that node_exporter's textfile collector reads: it has no info and no unit, and
a counter's family carries the ``_total``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_END: Final = "# EOF"


@dataclass(slots=True)
class Family:
    """A metric family: ``meta`` by keyword (TYPE, UNIT, HELP), and whole sample lines."""

    name: str
    meta: dict[str, str] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)


def families(texts: Iterable[str]) -> list[Family]:
    """The families of several OpenMetrics texts, in order of appearance; the first one's meta wins."""
    found: dict[str, Family] = {}
    for text in texts:
        family = None
        for line in text.splitlines():
            if line == _END or not line:
                continue
            if line.startswith("# "):
                keyword, name, value = line[2:].split(" ", 2)
                family = found.setdefault(name, Family(name))
                family.meta.setdefault(keyword, value)
            elif family is not None:
                family.samples.append(line)
    return list(found.values())


def openmetrics(found: Iterable[Family]) -> str:
    """OpenMetrics text, with its end mark."""
    lines: list[str] = []
    for family in found:
        lines += [f"# {keyword} {family.name} {value}" for keyword, value in family.meta.items()]
        lines += family.samples
    return "\n".join([*lines, f"{_END}\n"])


def prometheus(found: Iterable[Family]) -> str:
    """Prometheus text format 0.0.4."""
    lines: list[str] = []
    for family in found:
        kind = family.meta.get("TYPE", "untyped")
        name = family.name + {"counter": "_total", "info": "_info"}.get(kind, "")
        lines.append(f"# HELP {name} {family.meta.get('HELP', '')}")
        lines.append(f"# TYPE {name} {'gauge' if kind == 'info' else kind}")
        lines += family.samples
    return "\n".join([*lines, ""])
