"""The soak, for a minute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import soak

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.guest
@pytest.mark.timeout(300)
def test_a_minute_of_everything_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "soak.svg"
    assert soak.main(["--minutes", "1", "--picture", str(picture)]) == 0
    told = capsys.readouterr().out
    for name in ("steady", "killed", "linux"):
        assert f"{name}: " in told
    assert picture.read_text().startswith("<svg")
