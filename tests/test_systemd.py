"""The unit, held against systemd's own tools, which say what is wrong only in what they print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[1] / "systemd"
ANALYZE = shutil.which("systemd-analyze")


@pytest.fixture(autouse=True)
def _analyze() -> None:
    if ANALYZE is None:
        if os.environ.get("CVQD_REQUIRE") == "all":
            pytest.fail("CVQD_REQUIRE=all, but systemd-analyze is not installed (Debian package systemd)")
        pytest.skip("systemd-analyze is not installed")


def analyze(*arguments: str) -> str:
    done = subprocess.run([str(ANALYZE), *arguments], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_the_unit_verifies_without_a_word(tmp_path):
    # the executable is where it will be installed, not where the tests run
    text = (UNITS / "cvqd@.service").read_text().replace("/usr/bin/cvqd", "/bin/true")
    unit = tmp_path / "cvqd@.service"
    unit.write_text(text)
    (tmp_path / "cvqd@vm0.service").symlink_to(unit)
    assert analyze("verify", "--man=no", "--recursive-errors=no", str(tmp_path / "cvqd@vm0.service")) == ""


def test_the_unit_is_as_closed_as_it_can_be():
    told = analyze("security", "--offline=true", "--threshold=15", "--no-pager", str(UNITS / "cvqd@.service"))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert found, told
    assert float(found[1]) <= 1.5, told
