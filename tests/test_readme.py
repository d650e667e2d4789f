"""Tables of the README come from the code: ``python tests/test_readme.py`` writes them.

It writes the configuration's JSON Schema as well.  The tests here, and ``manual/test_schema.py``, compare.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cvqd import cli, config, events
from cvqd.manual import schema
from cvqd.manual.command_tree import command
from cvqd.report import anomaly, blackout
from cvqd.telemetry import metrics
from kit import bad_days, command_table, room_table

README = Path(__file__).resolve().parents[1] / "README.md"


def anchor(title: str) -> str:
    """What a link to a chapter says behind the ``#``, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def contents(text: str) -> list[str]:
    """A link to each chapter."""
    chapters = re.findall(r"^## (.*)$", text, re.MULTILINE)
    return [" · ".join(f"[{title}](#{anchor(title)})" for title in chapters)]


def verb_table() -> list[str]:
    """One row per verb, or verb of a verb."""
    rows = ["| command | what it does |", "|---|---|"]
    for verb in command(cli.parser()).leaves:
        usage = f"{verb.path} {verb.usage}".strip().replace("|", "\\|")
        rows.append(f"| `{usage}` | {verb.summary} |")
    return rows


def event_table() -> list[str]:
    """One row per event of the catalogue."""
    rows = ["| event | level | meaning | fields |", "|---|---|---|---|"]
    for event in events.CATALOGUE.values():
        fields = ", ".join(f"`{field}`" for field in event.fields)
        rows.append(f"| `{event.name}` | {event.level} | {event.meaning} | {fields} |")
    return rows


def metric_table() -> list[str]:
    """One row per metric, under the name that queries use."""
    rows = ["| metric | type | meaning | labels |", "|---|---|---|---|"]
    for metric in metrics.CATALOGUE.values():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.sample}` | {metric.kind} | {metric.meaning} | {labels} |")
    return rows


def anomaly_table() -> list[str]:
    """One row per kind of finding of a report."""
    return [
        "| anomaly | meaning |",
        "|---|---|",
        *(f"| `{kind}` | {text} |" for kind, text in anomaly.KINDS.items()),
    ]


def with_tables(text: str) -> str:
    """The README with every generated part as the code has it."""
    for name, rows in (
        ("contents", contents(text)),
        ("verb table", verb_table()),
        ("command table", command_table.table()),
        ("config table", config.table()),
        ("event table", event_table()),
        ("anomaly table", anomaly_table()),
        ("metric table", metric_table()),
        ("bad day table", bad_days.table()),
        ("room table", room_table.table()),
    ):
        block = "\n".join([f"<!-- {name} -->", *rows, "<!-- end -->"])
        text, found = re.subn(
            rf"<!-- {name} -->\n.*?<!-- end -->", lambda _, b=block: b, text, count=1, flags=re.DOTALL
        )
        assert found == 1, f"there is no place for the {name}"
    return text


def test_the_tables_are_the_codes():
    text = README.read_text()
    assert with_tables(text) == text, "run: python tests/test_readme.py"


def test_what_it_links_to_is_there():
    text = README.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, chapter = target.partition("#")
        found = README.parent / file if file else README
        assert found.exists(), target
        if chapter:
            titles = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert chapter in map(anchor, titles), target


def test_the_rule_for_long_blackouts_is_the_codes():
    assert f"A blackout is long if it is {blackout.RULE}." in README.read_text()


def test_every_cell_of_the_command_table_says_something():
    for row in command_table.table()[2:]:
        assert all(cell.strip() for cell in row.strip("|").split("|")), row


def test_every_bad_day_is_told_by_events_that_its_test_looks_for():
    found = bad_days.bad_days()
    assert found
    for day in found:
        assert day.day
        assert day.guest
        for name in day.log:
            assert name in events.CATALOGUE, f"{day.test}: {name} is not in the catalogue"
            assert name in day.looks_for, f"{day.test} does not look for {name}"


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
    (README.parent / "config" / "cvqd.schema.json").write_text(schema.text())
    sys.exit(0)
