"""Every log call of the package against the catalogue, read from the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import cvqd
from cvqd.events import CATALOGUE, Event

SOURCE = Path(cvqd.__file__).parent
#: keys that every line has: no event may have them as its own
HEADER = {"schema", "ts", "mono_ns", "seq", "run_id", "instance", "device", "level", "event"}


class Emission(NamedTuple):
    """One call of ``emit``; it has several names where the name is chosen nearby."""

    place: str
    names: frozenset[str]
    fields: frozenset[str]
    open_ended: bool


def emissions(source: str, place: str) -> list[Emission]:
    found: list[Emission] = []

    def visit(node: ast.AST, around: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.match_case):
            around = node
        if isinstance(node, ast.Call) and _calls_emit(node.func) and node.args:
            first = node.args[0]
            names = {first.value} if isinstance(first, ast.Constant) else _catalogued(around)
            found.append(
                Emission(
                    f"{place}:{node.lineno}",
                    frozenset(names),
                    frozenset(word.arg for word in node.keywords if word.arg) - {"mono_ns"},
                    any(word.arg is None for word in node.keywords),
                )
            )
        for child in ast.iter_child_nodes(node):
            visit(child, around)

    tree = ast.parse(source)
    visit(tree, tree)
    return found


def _calls_emit(called: ast.expr) -> bool:
    return (isinstance(called, ast.Attribute) and called.attr == "emit") or (
        isinstance(called, ast.Name) and called.id == "emit"
    )


def _catalogued(around: ast.AST) -> set[str]:
    """The names among which a variable chooses: those of the innermost case or function."""
    constants = {node.value for node in ast.walk(around) if isinstance(node, ast.Constant)}
    return {value for value in constants if isinstance(value, str) and value in CATALOGUE}


def package() -> list[Emission]:
    return [
        emission
        for path in sorted(SOURCE.rglob("*.py"))
        for emission in emissions(path.read_text(), str(path.relative_to(SOURCE)))
    ]


def test_every_log_call_has_a_catalogued_name_and_exactly_its_fields():
    wrong = [
        f"{emission.place} {name}: {sorted(emission.fields)}, not {sorted(CATALOGUE[name].fields)}"
        if name in CATALOGUE
        else f"{emission.place} {name} is not in the catalogue"
        for emission in package()
        for name in emission.names
        if name not in CATALOGUE
        or emission.open_ended
        or emission.fields != frozenset(CATALOGUE[name].fields)
    ]
    assert wrong == []


def test_every_log_call_can_be_read():
    assert [emission.place for emission in package() if not emission.names] == []


def test_every_catalogued_event_is_emitted_somewhere():
    emitted = {name for emission in package() for name in emission.names}
    assert sorted(set(CATALOGUE) - emitted) == []


@pytest.mark.parametrize("event", CATALOGUE.values(), ids=list(CATALOGUE))
def test_an_entry_of_the_catalogue_is_well_formed(event: Event):
    assert event is CATALOGUE[event.name]
    assert re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", event.name)
    assert event.level in ("debug", "info", "warning", "error")
    assert event.meaning
    assert not HEADER & set(event.fields)


def test_the_reader_of_the_source_sees_what_is_wrong():
    source = """
def good(log): log.emit("service.stopping", signal="x")
def missing(log): log.emit("service.stopping")
def surplus(log): log.emit("service.stopped", colour=1)
def unknown(log): log.emit("service.exploded")
def open_ended(log): log.emit("service.stopped", **fields)
def chosen(log, a):
    name = "service.stopped" if a else "service.stopping"
    log.emit(name)
def forwarded(log, name): log.emit(name)
"""
    found = emissions(source, "x")
    assert [(sorted(emission.names), sorted(emission.fields), emission.open_ended) for emission in found] == [
        (["service.stopping"], ["signal"], False),
        (["service.stopping"], [], False),
        (["service.stopped"], ["colour"], False),
        (["service.exploded"], [], False),
        (["service.stopped"], [], True),
        (["service.stopped", "service.stopping"], [], False),
        ([], [], False),
    ]
