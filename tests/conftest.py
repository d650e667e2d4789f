"""What tests need from the machine, decided in one place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cvqd.testing.uml import UmlGuest

if TYPE_CHECKING:
    from collections.abc import Callable

#: marker -> why such tests cannot run here, None if they can
OBSTACLES: dict[str, Callable[[], str | None]] = {"guest": UmlGuest.available}


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
