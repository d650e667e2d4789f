"""The bad days that cvqd is built for, read from the tests that live through them.

    @pytest.mark.bad_day("the device needs a reset", guest="its commands get ERR", log="device.needs_reset")

says what the guest (or its operator) sees and which events report it.  The
README's table is made of these marks, so a day without a test is not in it, and
each event must be one that the test, or a helper beside it, looks for.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]
MARK = "pytest.mark.bad_day"


class BadDay(NamedTuple):
    """One mark; ``looks_for`` are the strings of the test's file, those of marks left out."""

    day: str
    guest: str
    log: tuple[str, ...]
    test: str
    looks_for: frozenset[str]


def bad_days() -> list[BadDay]:
    """Every mark, by day and then by test."""
    found = [day for path in TESTS.rglob("test_*.py") for day in marked(path.read_text(), path)]
    return sorted(found, key=lambda day: (day.day, day.test))


def marked(source: str, path: Path) -> Iterator[BadDay]:
    """Marks in one file, read and not imported: some tests can be imported in their machine only."""
    if MARK not in source:
        return
    tests = [
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    strings = frozenset(
        node.value
        for test in tests
        for statement in test.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    for node in tests:
        for call in node.decorator_list:
            if not isinstance(call, ast.Call) or ast.unparse(call.func) != MARK:
                continue
            (day,) = (ast.literal_eval(argument) for argument in call.args)
            words = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
            log = tuple(name.strip() for name in words.pop("log").split(","))
            test = f"{path.relative_to(TESTS)}::{node.name}"
            yield BadDay(day, words.pop("guest"), log, test, strings)
            assert not words, f"{test}: {sorted(words)}"


def table() -> list[str]:
    """The README's rows."""
    rows = ["| a bad day | what the guest sees | what the log says | test |", "|---|---|---|---|"]
    for day in bad_days():
        log = ", ".join(f"`{name}`" for name in day.log)
        file, _, name = day.test.partition("::")
        words = name.removeprefix("test_").replace("_", " ")
        rows.append(f"| {day.day} | {day.guest} | {log} | [{words}](tests/{file}) |")
    return rows
