"""Reports on standard output: JSON for programs, aligned text for people."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def show(reports: list[Any], *, as_json: bool, several: bool) -> None:
    """Print reports; with ``several`` their JSON is a list even of one."""
    if as_json:
        if several or reports:
            print(json.dumps(reports if several else reports[0], indent=2))
        return
    if not reports:
        return
    from cvqd.text.paint import Paint
    from cvqd.text.status_text import render

    colour = Paint.for_stream(sys.stdout)
    print("\n\n".join(render(entry, columns(), colour) for entry in reports))


def columns() -> int:
    """Width of the terminal; where standard output is none, what a page has."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return 100
