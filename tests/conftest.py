"""What tests need from the machine, decided in one place."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import hypothesis
import pytest

from cvqd.testing.uml import UmlGuest
from kit import own_network

if TYPE_CHECKING:
    from collections.abc import Callable

# a busy machine is no finding
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

_SEARCH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
#: what builds and boots the virtual machine, and Debian's package of each
_MACHINE = {
    "qemu-system-x86_64": "qemu-system-x86",
    "vdpa": "iproute2",
    "apt-get": "apt",
    "gcc": "gcc",
    "make": "make",
    "patch": "patch",
    "xz": "xz-utils",
    "zstd": "zstd",
    "busybox": "busybox-static",
    "ethtool": "ethtool",
}


def _no_machine() -> str | None:
    missing = [package for tool, package in _MACHINE.items() if shutil.which(tool, path=_SEARCH) is None]
    return f"the virtual machine needs the packages {' '.join(missing)}" if missing else None


def _no_reader() -> str | None:
    missing = [tool for tool in ("mandoc", "fish", "zsh") if shutil.which(tool) is None]
    return f"the manuals and completions need the packages {' '.join(missing)}" if missing else None


#: marker -> why such tests cannot run here, None if they can
OBSTACLES: dict[str, Callable[[], str | None]] = {
    "guest": UmlGuest.available,
    "kernel": _no_machine,
    "manual": _no_reader,
    "tap": own_network.obstacle,
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose need is not met; fail it where CVQD_REQUIRE=all promised that everything is there."""
    for marker, obstacle in OBSTACLES.items():
        if item.get_closest_marker(marker) is None:
            continue
        reason = obstacle()
        if reason is None:
            continue
        if os.environ.get("CVQD_REQUIRE") == "all":
            pytest.fail(f"CVQD_REQUIRE=all, but {reason}", pytrace=False)
        pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say in which order the tests ran: what failed by its order alone is found again by it."""
    seed = config.getoption("randomly_seed", None)
    if seed is not None:
        terminalreporter.write_line(f"the same order again: --randomly-seed={seed}")
