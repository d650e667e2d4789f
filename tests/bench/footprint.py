"""What an instance costs at rest: time from exec to ready, private memory."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from pathlib import Path

from guest import daemon_command

_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)$")


def start_up() -> float:
    """Seconds from exec until the daemon says that a front-end may come."""
    with tempfile.TemporaryDirectory() as name:
        command = daemon_command(Path(name))
        begun = time.perf_counter()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if b'"event":"service.started"' in line:
                    elapsed = time.perf_counter() - begun
                    process.kill()
                    return elapsed
    raise RuntimeError("the daemon did not start")


def private_memory(pid: int, guest: str = "/memfd:guest") -> float:
    """Megabytes that only this process has: Private_Clean and Private_Dirty, proc(5), without the guest's.

    A page of a shared mapping counts as private while one process alone has touched it, so smaps_rollup
    would count guest pages in; the mappings of the guest's memory are known by their file's name.
    """
    kilobytes = 0
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if mapping := _MAPPING.match(line):
            name = mapping[1]
        elif line.startswith(("Private_Clean:", "Private_Dirty:")) and not name.startswith(guest):
            kilobytes += int(line.split()[1])
    return kilobytes / 1024
