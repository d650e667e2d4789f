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
    from cvqd.status_text import render

    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        columns = 100
    if reports:
        print("\n\n".join(render(entry, columns) for entry in reports))
