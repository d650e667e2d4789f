"""What a shell offers, asked of the shells themselves."""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from cvqd import cli
from cvqd.manual import completion
from cvqd.manual.command_tree import command
from cvqd.verbs import instances

if TYPE_CHECKING:
    from pathlib import Path

TREE = command(cli.parser())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two instances' sockets and some files."""
    monkeypatch.setattr(completion, "CONTROL_DIRECTORY", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    for name in ("vm0.control", "vm1.control", "vm0.sock"):
        (tmp_path / "run" / name).touch()
    (tmp_path / "one file.yaml").touch()
    (tmp_path / "folder").mkdir()
    return tmp_path


def bash(place: Path, *words: str) -> set[str]:
    """Offers for the last of the words."""
    typed = " ".join(map(shlex.quote, ("cvqd", *words)))
    script = f"""{completion.bash(TREE)}
COMP_WORDS=({typed}) COMP_CWORD={len(words)}
_cvqd
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-u", "-c", script],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stderr == ""
    return set(done.stdout.split("\n")) - {""}


VERBS = {each.name for each in TREE.commands}


def test_bash_offers_verbs_and_options(place: Path):
    assert bash(place, "") == VERBS
    assert bash(place, "sta") == {"status"}
    assert {"--version", "--print-capabilities"} <= bash(place, "--")
    assert bash(place, "run", "-") == {"--config", "--socket-path", "--fd", "--help"}
    assert bash(place, "run", "--s") == {"--socket-path"}


def test_bash_offers_instances_that_run(place: Path):
    assert bash(place, "status", "") == {"vm0", "vm1"}
    assert bash(place, "announce", "vm1") == {"vm1"}
    assert bash(place, "announce", "x") == set()
    for name in ("vm0.control", "vm1.control"):
        (place / "run" / name).unlink()
    assert bash(place, "status", "") == set()


def test_bash_offers_files_where_a_file_is_meant(place: Path):
    assert bash(place, "run", "--config", "one") == {"one file.yaml"}
    assert bash(place, "run", "--config", "=", "one") == {"one file.yaml"}
    assert bash(place, "run", "--config", "=") >= {"one file.yaml", "folder"}
    assert bash(place, "check-config", "f") == {"folder"}
    assert bash(place, "run", "--fd", "") == set()
    assert bash(place, "run", "") == set()


def test_bash_follows_every_verb_of_a_verb(place: Path):
    def check(tree: object, words: tuple[str, ...]) -> None:
        for each in tree.commands:
            flags = {flag for option in each.options for flag in option.flags}
            assert bash(place, *words, each.name, "-") == {*flags, "--help"}
            check(each, (*words, each.name))

    check(TREE, ())


def test_the_directory_is_that_of_the_verbs():
    assert f"{instances.CONTROL_DIRECTORY}/*.control" in completion.bash(TREE)
