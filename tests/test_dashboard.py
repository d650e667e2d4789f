"""The Grafana dashboard against the catalogue of metrics: names, labels, shape."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cvqd.metrics import CATALOGUE, NAME, Metric

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "config" / "grafana.json").read_text()
)
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
#: name in a query -> its metric
SAMPLES: dict[str, Metric] = {
    metric.sample + suffix: metric
    for metric in CATALOGUE.values()
    for suffix in (("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",))
}


def names(query: str) -> set[str]:
    return set(re.findall(r"\bcvqd_\w+", query))


def test_it_asks_for_every_metric_and_for_nothing_else():
    asked = set().union(*map(names, QUERIES))
    assert asked <= set(SAMPLES)
    assert {SAMPLES[name].name for name in asked} == set(CATALOGUE)


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_uses_labels_that_its_metric_has(query: str):
    (name,) = {SAMPLES[name].name for name in names(query)}
    metric = CATALOGUE[name]
    own = {NAME, *metric.labels} | ({"le"} if metric.kind == "histogram" else set())
    matched = {
        label for braces in re.findall(r"\{(.*?)\}", query) for label in re.findall(r"(\w+)\s*[=!]", braces)
    }
    grouped = {label for by in re.findall(r"by \((.*?)\)", query) for label in by.split(", ")}
    assert matched | grouped <= own
    assert NAME in matched, "the variable chooses"
    assert bool(re.search(r"(rate|increase)\(", query)) is (metric.kind in ("counter", "histogram"))
    assert query.count("(") == query.count(")")


def test_legends_name_labels_that_the_query_keeps():
    for panel in PANELS:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), target


def test_its_shape_is_what_grafana_imports():
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(DASHBOARD)
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "name"]
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in PANELS:
        assert panel["type"] in ("stat", "table", "timeseries")
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters))


def test_no_panel_lies_on_another_or_beyond_the_edge():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
