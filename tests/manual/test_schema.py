from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from config import test_config_mistakes
from cvqd import config
from cvqd.config import parse
from cvqd.config.fields import DEFAULTS, Field, ListOf, MapOf, Section, Union
from cvqd.errors import ConfigError
from cvqd.manual import config_page, schema
from kit.config_texts import MINIMAL, SIMULATOR

CONFIG = Path(__file__).parents[2] / "config"
VALIDATOR = jsonschema.Draft202012Validator(schema.schema())


class Editor(yaml.SafeLoader):
    """YAML as editors read it: the core schema of YAML 1.2, §10.3.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 -- PyYAML's own way


for tag, pattern, first in (
    ("null", r"null|Null|NULL|~|", "nN~"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    Editor.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), [*first, ""])
# YAML 1.1 takes a leading zero for octal
Editor.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


def findings(text: str) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(yaml.load(text, Editor))]


def test_the_schema_is_one_and_the_file_in_config_is_it():
    jsonschema.Draft202012Validator.check_schema(schema.schema())
    file = CONFIG / "cvqd.schema.json"
    assert file.read_text() == schema.text(), "run: python tests/test_readme.py"


@pytest.mark.parametrize("name", ["vm0.yaml", "simulator.yaml"])
def test_the_examples_pass_and_name_the_schema(name: str):
    text = (CONFIG / name).read_text()
    assert findings(text) == []
    first, _, _ = text.partition("\n")
    assert first == "# yaml-language-server: $schema=cvqd.schema.json"


RIGHT = [
    config_page.EXAMPLE,
    MINIMAL,
    SIMULATOR,
    MINIMAL + "log:\n  # level: debug\n",
    "device: {kind: vhost-vdpa, vdpa: vdpa0, mac: 00:00:00:00:00:01}\n",
    "device: {kind: simulator, datapath: {kind: tap, interface: tap0}}\n",
    "device: {kind: simulator, datapath: {kind: peer, bind: /a, connect: /b}}\n",
    "device: {kind: simulator, features: [VERSION_1, ACCESS_PLATFORM], faults: []}\n",
    'device: {kind: simulator, faults: [{command: "*", action: delay, delay: 0.5}]}\n',
    MINIMAL + "targets: {spare: {kind: vhost-vdpa, path: /dev/vhost-vdpa-1}}\n",
    *(MINIMAL + f"frontend: {{mode: {mode}}}\n" for mode in ("0660", "660", '"0660"', '"600"')),
    *(MINIMAL + f"frontend: {{inband: {truth}}}\n" for truth in ("true", "False", "yes", "off")),
    *(MINIMAL + f"control_queue: {{deadline: {time}}}\n" for time in ("1s", "1.5 s", "20ms", "2")),
    *(MINIMAL + f"control_queue: {{max_command: {size}}}\n" for size in ("4096", "1 MiB", "64KiB")),
    *(MINIMAL + f"policy: {{vlans: {vlans}}}\n" for vlans in ("all", "none", "[1, 5 - 9, 4094]")),
    *(MINIMAL + f"policy: {{mac: {{change: {to}}}}}\n" for to in ("allowed", "[52:*, 0A:0b:0c:0d:0e:0f]")),
    MINIMAL + "policy: {mac: , mac_table: {unicast: 0}, pairs: 32768}\n",
]


@pytest.mark.parametrize("text", RIGHT)
def test_what_is_right_passes(text: str):
    parse(text, "vm0.yaml")
    assert findings(text) == []


#: reasons for which a schema has no words
BEYOND = (
    "yaml: ",  # no document at all
    "duplicate key",
    "tag tag:yaml.org",
    "deadline: 0ms is not between",  # the range of a number with a unit
    "17MiB is not between",
    "4000-5000 is not between",
    "9-3 ends before it begins",
    "unprintable",
    "cannot be left out",
    "is the same socket as bind",
    "its socket is the front-end's",
    "a call can only end in `err`",
)
WRONG = [
    text
    for mark in test_config_mistakes.test_a_mistake_is_reported_with_its_place_and_reason.pytestmark
    for text, reason in mark.args[1]
    if reason != "1:" and (not any(words in reason for words in BEYOND) or "expected a mapping" in reason)
]


def test_most_mistakes_are_looked_at():
    assert len(WRONG) > 55


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_found(text: str):
    with pytest.raises(ConfigError):
        parse(text, "vm0.yaml")
    assert findings(text), "if a schema has no words for this mistake, BEYOND names the reason"


def fields(kind: Any) -> list[Field]:
    match kind:
        case Section():
            return [found for entry in kind.fields for found in (entry, *fields(entry.type))]
        case Union():
            return [found for variant in kind.variants.values() for found in fields(variant)]
        case ListOf() | MapOf():
            return fields(kind.item)
    return []


def properties(node: Any) -> list[tuple[str, Any]]:
    if isinstance(node, list):
        return [found for item in node for found in properties(item)]
    if not isinstance(node, dict):
        return []
    own = node.get("properties", {}).items() if "if" not in node else []
    return [*own, *(found for value in node.values() for found in properties(value))]


def test_every_key_is_described():
    described = {(key, found.get("description", "")) for key, found in properties(schema.schema())}
    for entry in fields(config.FILE):
        if entry.default is not DEFAULTS:
            assert any(key == entry.key and text.startswith(entry.doc) for key, text in described), entry.key


def test_a_default_is_a_value_that_may_stand_there():
    whole = schema.schema()
    shown = [(key, found) for key, found in properties(whole) if "default" in found]
    for key, found in shown:
        with_definitions = VALIDATOR.evolve(schema={**found, "$defs": whole["$defs"]})
        assert list(with_definitions.iter_errors(found["default"])) == [], key
    defaults = {key: found["default"] for key, found in shown}
    assert defaults["deadline"] == "1s"
    assert defaults["mtu"] == 1500
    assert defaults["datapath"] == {"kind": "loopback"}
    assert defaults["vlans"] == "all"
    # words about something else, and the instance's own names, are no text to insert
    assert not {"pairs", "features", "faults", "socket", "directory"} & set(defaults)
