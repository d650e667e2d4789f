"""The soak, for a minute, and what it calls a finding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import soak
from kit.soak_subject import Happening, Sample, Subject, grown, missing

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


def test_a_soak_in_which_nothing_happened_is_a_finding() -> None:
    subject = Subject("linux", begun=0.0)
    assert missing(subject) == [
        "linux: never rehearsed",
        "linux: never driver reloaded",
        "linux: no command",
    ]
    subject.commands = 1
    subject.happenings += [Happening(1.0, "rehearsed"), Happening(2.0, "driver reloaded")]
    assert missing(subject) == []


@pytest.mark.parametrize(
    ("memory", "descriptors", "found"),
    [
        (0.0, 0.0, []),
        (0.1, 0.0, ["steady: 33.2 MB became 37.7"]),
        (0.0, 0.1, ["steady: 43 descriptors became 47"]),
    ],
)
def test_a_process_that_grows_is_a_finding(memory: float, descriptors: float, found: list[str]) -> None:
    subject = Subject("steady", begun=0.0)
    subject.samples = [
        Sample(second, 30 + memory * second, int(40 + descriptors * second), second) for second in range(100)
    ]
    assert grown(subject) == found
