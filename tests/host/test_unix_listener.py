from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from cvqd.errors import SocketError
from cvqd.host import unix_listener


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.sock"


def mode_of(path: str | Path) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def refused(path: Path) -> SocketError:
    with pytest.raises(SocketError) as caught, unix_listener.bind(str(path), 0o600):
        pass
    assert caught.value.exit_code == 73
    return caught.value


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_socket_has_the_configured_mode_whatever_the_umask(path: Path, mode: int, umask: int):
    before = os.umask(umask)
    try:
        with unix_listener.bind(str(path), mode):
            assert mode_of(path) == mode
    finally:
        os.umask(before)


def test_it_is_never_more_open_than_configured(path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(os, "chmod", lambda name, _mode: seen.append(mode_of(name)))
    before = os.umask(0)
    try:
        with unix_listener.bind(str(path), 0o660):
            assert seen == [0o600]
    finally:
        os.umask(before)


def test_clients_can_connect_and_the_file_goes_with_the_listener(path: Path):
    with unix_listener.bind(str(path), 0o600) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        accepted, _ = listener.accept()
        accepted.close()
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert not path.exists()


def test_a_stale_socket_is_replaced(path: Path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with unix_listener.bind(str(path), 0o600), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_that_somebody_listens_on_is_left_alone(path: Path):
    with unix_listener.bind(str(path), 0o600, backlog=1):
        for _ in range(4):  # the later attempts find the backlog full
            assert refused(path).reason == "another process listens on it"
        assert path.is_socket()


def test_another_kind_of_file_is_left_alone(path: Path):
    path.write_text("precious")
    assert refused(path).reason == "exists and is not a socket"
    assert path.read_text() == "precious"


def test_a_missing_directory_is_named(path: Path):
    directory = path.with_name("none")
    reason = refused(directory / "a.sock").reason
    assert reason == f"the directory {directory} does not exist; make it, or configure another place"


def test_the_successors_socket_is_not_removed(path: Path):
    with unix_listener.bind(str(path), 0o600):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert path.is_socket()
