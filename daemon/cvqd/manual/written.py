"""Defaults as they would be written in a file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from cvqd.config.fields import REQUIRED, Reader, Scalar

if TYPE_CHECKING:
    from cvqd.config.fields import Field


def default_text(entry: Field) -> str:
    """``required``, or the default in words."""
    if entry.default is REQUIRED:
        return "required"
    return f"default {(entry.shown_default or str(entry.default))}"


def written_default(entry: Field) -> tuple[Any] | None:
    """The default's value in JSON; None if the manual only describes it (``the device's``).

    The manual's text is a value if reading it gives the default.
    """
    if entry.default is REQUIRED:
        return None
    text = (entry.shown_default or str(entry.default)).strip("`")
    reader = Reader("default", {})
    node = reader.compose(text)
    if node is None or entry.type.read(reader, node, "") != entry.default or not reader.clean:
        return None
    if isinstance(entry.type, Scalar) and not re.fullmatch(r"[0-9]|[1-9][0-9]*|true|false", text):
        return (text,)
    return (yaml.safe_load(text),)
