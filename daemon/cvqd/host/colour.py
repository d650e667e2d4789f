"""Whether to write in colour: one answer for the log and for every verb."""

from __future__ import annotations

import os


def wanted(*, terminal: bool) -> bool:
    """True on a terminal, unless NO_COLOR is set and not empty (no-color.org) or TERM is ``dumb``."""
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
