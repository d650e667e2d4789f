"""What a shell offers, asked of the shells themselves."""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from cvqd import cli
from cvqd.host.socket_paths import CONTROL, DIRECTORY
from cvqd.manual import bash_completion, fish_completion, zsh_completion
from cvqd.manual.command_tree import command

if TYPE_CHECKING:
    from pathlib import Path

TREE = command(cli.parser())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two instances' sockets and some files."""
    for shell in (bash_completion, fish_completion, zsh_completion):
        monkeypatch.setattr(shell, "DIRECTORY", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    for name in ("vm0.control", "vm1.control", "vm0.sock"):
        (tmp_path / "run" / name).touch()
    (tmp_path / "one file.yaml").touch()
    (tmp_path / "folder").mkdir()
    return tmp_path


def bash(place: Path, *words: str) -> set[str]:
    """Offers for the last of the words."""
    typed = " ".join(map(shlex.quote, ("cvqd", *words)))
    script = f"""{bash_completion.text(TREE)}
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


def test_bash_offers_both_where_an_instance_and_a_file_are_meant(place: Path):
    for words in (("restore",), ("snapshot", "take")):
        assert bash(place, *words, "") == {"vm0", "vm1", "run", "folder", "one file.yaml"}
        assert bash(place, *words, "one") == {"one file.yaml"}
        assert bash(place, *words, "vm1") == {"vm1"}
    assert bash(place, "snapshot", "diff", "one") == {"one file.yaml"}


def test_bash_follows_every_verb_of_a_verb(place: Path):
    def check(tree: object, words: tuple[str, ...]) -> None:
        for each in tree.commands:
            flags = {flag for option in each.options for flag in option.flags}
            assert bash(place, *words, each.name, "-") == {*flags, "--help"}
            check(each, (*words, each.name))

    check(TREE, ())


def fish(place: Path, line: str) -> set[str]:
    """Offers for the end of the line, without their descriptions."""
    script = f"{fish_completion.text(TREE)}\ncomplete -C {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stderr == ""
    return {offer.partition("\t")[0] for offer in done.stdout.splitlines()}


@pytest.mark.manual
def test_fish_offers_the_same(place: Path):
    assert fish(place, "cvqd ") == VERBS
    assert fish(place, "cvqd run --") == {"--config", "--socket-path", "--fd", "--help"}
    assert fish(place, "cvqd status ") == {"vm0", "vm1"}
    assert fish(place, "cvqd announce vm1") == {"vm1"}
    assert "one file.yaml" in fish(place, "cvqd run --config ")
    assert fish(place, "cvqd run --fd ") == set()


@pytest.mark.manual
def test_zsh_takes_its_file_and_finds_the_function_of_each_verb(place: Path):
    # zsh completes at a prompt only; what stands in for its completion system says what it was given
    stand_ins = (
        "_arguments() { print -r -- $words[1]: $*; [[ $1 != -C ]] || state=rest; }; _describe() { :; }"
    )
    for verb in VERBS:
        script = f"{stand_ins}; words=({verb})\n{zsh_completion.text(TREE)}"
        done = subprocess.run(
            ["zsh", "-f", "-c", script], cwd=place, capture_output=True, text=True, check=True, timeout=20
        )
        assert done.stderr == ""
        _, own = done.stdout.splitlines()
        (command,) = (each for each in TREE.commands if each.name == verb)
        assert all(f"--{option.flags[-1].removeprefix('--')}[" in own for option in command.options)


def test_the_directory_is_that_of_the_verbs():
    for shell in (bash_completion, fish_completion, zsh_completion):
        assert f"{DIRECTORY}/*{CONTROL}" in shell.text(TREE)
