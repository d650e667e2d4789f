"""The Grafana dashboard against the catalogue of metrics: names, labels, shape."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cvqd.events import CATALOGUE as EVENTS
from cvqd.telemetry.metrics import CATALOGUE, NAME, Metric

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "config" / "grafana.json").read_text()
)
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
(TABLE,) = (panel for panel in PANELS if panel["type"] == "table")
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
#: name in a query -> its metric
SAMPLES: dict[str, Metric] = {
    metric.sample + suffix: metric
    for metric in CATALOGUE.values()
    for suffix in (("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",))
}


def names(query: str) -> set[str]:
    return set(re.findall(r"\bcvqd_\w+", query))


def grouped(query: str) -> set[str]:
    return {label for by in re.findall(r"by \((.*?)\)", query) for label in by.split(", ")}


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
    assert matched | grouped(query) <= own
    assert NAME in matched, "the variable chooses"
    assert bool(re.search(r"(rate|increase)\(", query)) is (metric.kind in ("counter", "histogram"))
    assert query.count("(") == query.count(")")


def test_legends_name_labels_that_the_query_keeps():
    for panel in PANELS:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), target


def test_errors_and_warnings_are_asked_for_by_levels_that_events_have():
    asked = {found for query in QUERIES for found in re.findall(r'level="(.*?)"', query)}
    assert asked == {"error", "warning"} < {event.level for event in EVENTS.values()}


def test_a_number_is_of_this_moment_and_the_lack_of_one_is_neither_good_nor_bad():
    """The last step of a range may be minutes old; the first threshold is the colour of "No data" too."""
    for panel in PANELS:
        if panel["type"] == "stat":
            assert all(target["instant"] for target in panel["targets"]), panel["title"]
            nothing, *steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
            assert [step["value"] for step in (nothing, *steps)] == [None, 0, 1]
            assert nothing["color"] not in {step["color"] for step in steps}


def test_an_instance_that_is_down_has_a_row():
    """All other metrics are of instances that answer."""
    assert any("cvqd_up{" in target["expr"] for target in TABLE["targets"])


def test_the_table_arranges_the_columns_that_its_queries_make():
    made = {"Time"}.union(
        *({f"Value #{target['refId']}"} | grouped(target["expr"]) for target in TABLE["targets"])
    )
    (organize,) = (step["options"] for step in TABLE["transformations"] if step["id"] == "organize")
    assert set(organize["indexByName"]) | set(organize["excludeByName"]) == made
    assert not set(organize["indexByName"]) & set(organize["excludeByName"])
    shown = {organize["renameByName"].get(name, name) for name in organize["indexByName"]}
    assert not any(name.startswith("Value") for name in shown)
    assert {override["matcher"]["options"] for override in TABLE["fieldConfig"]["overrides"]} <= shown
    assert {column["displayName"] for column in TABLE["options"]["sortBy"]} <= shown


def test_colours_are_chosen_in_ways_that_an_older_grafana_knows():
    """It leaves a panel empty where it does not, as 9.4 does for "shades"."""
    for panel in PANELS:
        config = panel["fieldConfig"]
        chosen = [config["defaults"].get("color", {"mode": "thresholds"})] + [
            setting["value"]
            for override in config["overrides"]
            for setting in override["properties"]
            if setting["id"] == "color"
        ]
        assert {color["mode"] for color in chosen} <= {"fixed", "thresholds"}


def test_titles_fit_beside_the_menu_on_a_screen_of_1440_pixels():
    for panel in PANELS:
        assert len(panel["title"]) <= 3 * panel["gridPos"]["w"], panel["title"]


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
