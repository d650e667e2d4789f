"""Any text at all is a configuration or has its mistakes reported."""

from __future__ import annotations

import re
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvqd.config import Config, parse
from cvqd.errors import ConfigError


def read_or_refuse(text: str) -> None:
    found: list[str] | Config
    try:
        found = parse(text, "vm0.yaml")
    except ConfigError as error:
        found = error.problems
    if isinstance(found, Config):
        assert found.instance == "vm0"
    else:
        assert found
        assert all(re.match(r"vm0\.yaml:[0-9]+:[0-9]+: .+: .+\Z", problem) for problem in found)


@given(st.text(max_size=200))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_text_is_a_configuration_or_a_configuration_error(text: str):
    read_or_refuse(text)


WORDS = [
    "device:",
    "kind",
    "simulator",
    "vhost-vdpa",
    "path",
    "vdpa",
    "mac",
    "mtu",
    "features",
    "faults",
    "datapath",
    "peer",
    "log",
    "level",
    "control_queue",
    "deadline",
    "targets",
    "frontend",
    "socket",
    "null",
    "~",
    "yes",
    "0x1F",
    "1e9",
    ".inf",
    "2001-01-01",
    "52:54:00:12:34:56",
    "<<",
    "!!int",
    "!x",
    "&a",
    "*a",
    "|",
    ">",
    "-",
    "?",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "#",
    "'",
    '"',
    "%",
    "@",
    "`",
    "---",
    "...",
]


@given(st.lists(st.sampled_from([*WORDS, " ", "\n", "\n  ", ": ", "\t", "\\"]), max_size=40))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_pieces_of_yaml_are_a_configuration_or_a_configuration_error(pieces: list[str]):
    read_or_refuse("".join(pieces))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "device",
                    "targets",
                    "frontend",
                    "control",
                    "log",
                    "kind",
                    "path",
                    "mtu",
                    "faults",
                    "features",
                    "datapath",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_structure_is_a_configuration_or_a_configuration_error(value: Any):
    read_or_refuse(yaml.safe_dump(value, allow_unicode=True))
