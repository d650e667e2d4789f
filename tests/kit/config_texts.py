"""Texts of small configurations, and what is wrong with others."""

from __future__ import annotations

import pytest

from cvqd.config import parse
from cvqd.errors import ConfigError

MINIMAL = "device: {kind: vhost-vdpa, path: /dev/vhost-vdpa-0}\n"
SIMULATOR = "device: {kind: simulator}\n"


def problems(text: str, file: str = "vm0.yaml") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, file)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems
