from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from cvqd.errors import StateError
from cvqd.host import state_file
from cvqd.host.state_file import NAME, StateFile, boot_id
from cvqd.wire.state_log import MAX_LOG
from kit.rig import open_descriptors

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 3 * 4096


def made(directory: Path, content: bytes = b"kept") -> StateFile:
    file = StateFile(str(directory))
    file.create(SIZE)[: len(content)] = content
    file.install()
    return file


def test_the_directory_is_made_and_is_nobody_elses_to_look_into(tmp_path: Path):
    with closing(made(tmp_path / "a" / "b")) as file:
        assert file.read() == b"kept".ljust(SIZE, b"\0")
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "a" / "b" / NAME).stat().st_mode & 0o777 == 0o600


def test_there_is_nothing_to_read_before_the_first_file_is_installed(tmp_path: Path):
    with closing(StateFile(str(tmp_path))) as file:
        assert file.read() is None
        file.create(SIZE)
        assert file.read() is None
        file.install()
        assert file.read() == bytes(SIZE)


def test_a_new_file_is_not_made_of_what_a_killed_process_had_begun(tmp_path: Path):
    with closing(StateFile(str(tmp_path))) as file:
        file.create(2 * SIZE)[:] = b"x" * (2 * SIZE)
        assert bytes(file.create(SIZE)) == bytes(SIZE)


def test_no_descriptor_is_left_behind(tmp_path: Path):
    gc.collect()
    before = open_descriptors()
    with closing(made(tmp_path)) as file:
        assert file.read()
        with pytest.raises(StateError):
            StateFile(str(tmp_path))
    assert boot_id()
    assert open_descriptors() == before


def test_every_byte_has_its_block_before_the_file_is_used(tmp_path: Path):
    with closing(StateFile(str(tmp_path))) as file:
        file.create(1 << 20)
        assert (tmp_path / "state.log.next").stat().st_blocks * 512 >= 1 << 20


def test_two_processes_do_not_share_a_directory(tmp_path: Path):
    with closing(StateFile(str(tmp_path))):
        with pytest.raises(StateError, match="another process keeps its state there") as caught:
            StateFile(str(tmp_path))
        assert caught.value.exit_code == 75
    StateFile(str(tmp_path)).close()


def test_what_was_stored_survives_a_kill_and_the_directory_is_free_again(tmp_path: Path):
    script = (
        "import os, signal, sys\nfrom cvqd.host.state_file import StateFile\n"
        f"file = StateFile(sys.argv[1])\nmemory = file.create({SIZE})\nfile.install()\n"
        "memory[:4] = b'kept'\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    with closing(StateFile(str(tmp_path))) as file:
        assert file.read() == b"kept".ljust(SIZE, b"\0")


def test_a_file_that_was_set_aside_can_be_looked_at(tmp_path: Path):
    with closing(made(tmp_path, b"odd")) as file:
        kept_as = file.set_aside()
        assert file.read() is None
    assert kept_as == f"{tmp_path}/state.log.refused"
    assert (tmp_path / "state.log.refused").read_bytes().startswith(b"odd")


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 73), (errno.EDQUOT, 73), (errno.EACCES, 77), (errno.EROFS, 77)]
)
def test_a_full_disk_is_found_before_the_file_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
):
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with closing(made(tmp_path)) as file:
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(StateError) as caught:
            file.create(SIZE)
        assert (caught.value.errno, caught.value.exit_code) == (number, code)
        assert file.read() == b"kept".ljust(SIZE, b"\0"), "what was there stays"


def test_a_place_that_is_no_directory_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StateError) as caught:
            StateFile(str(path))
        assert caught.value.exit_code == 73


def test_links_and_pipes_are_not_read(tmp_path: Path):
    with closing(StateFile(str(tmp_path))) as file:
        (tmp_path / NAME).symlink_to("/etc/passwd")
        with pytest.raises(StateError, match="symbolic link"):
            file.read()
        (tmp_path / NAME).unlink()
        os.mkfifo(tmp_path / NAME)
        with pytest.raises(StateError, match="is not a regular file"):
            file.read()


def test_a_file_of_any_size_is_read_to_a_bound(tmp_path: Path):
    with closing(StateFile(str(tmp_path))) as file:
        with (tmp_path / NAME).open("wb") as huge:
            huge.truncate(1 << 40)
        found = file.read()
        assert found is not None
        assert len(found) == MAX_LOG


def test_a_boot_has_an_id_unless_it_is_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert len(boot_id()) == 16
    assert boot_id() == boot_id() != bytes(16)
    monkeypatch.setattr(state_file, "_BOOT_ID", str(tmp_path / "hidden"))
    assert boot_id() == bytes(16)
