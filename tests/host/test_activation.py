"""Inherited sockets, in a process of their own: they have fixed numbers, and names in its environment."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from cvqd.errors import CvqdError
from cvqd.host.activation import take_inherited

if TYPE_CHECKING:
    from pathlib import Path

#: says what it was given, or why it does not take it
PROGRAM = """
import os, sys
from cvqd.errors import CvqdError
from cvqd.host.activation import take_inherited
os.environ["LISTEN_PID"] = str(os.getpid())
for number, source in enumerate(sys.argv[1:], start=3):
    os.dup2(int(source), number)
try:
    found = take_inherited(os.environ)
except CvqdError as error:
    sys.exit(f"{error.exit_code} {error}")
for name, listener in found.items():
    print(name, listener.fileno(), listener.getsockname(), listener.get_inheritable(), listener.getblocking())
print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
"""


def listener(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


def taken(*passed: socket.socket | int, **variables: str) -> list[str]:
    """What the process says that is passed these."""
    with ExitStack() as stack:
        high = []
        for one in passed:
            # beyond the numbers that they are to have
            high.append(fcntl.fcntl(one, fcntl.F_DUPFD, 20))
            stack.callback(os.close, high[-1])
        environment = {**os.environ, "LISTEN_FDS": str(len(passed)), **variables}
        command = [sys.executable, "-c", PROGRAM, *map(str, high)]
        done = subprocess.run(
            command, env=environment, pass_fds=high, capture_output=True, text=True, check=False, timeout=30
        )
    return (done.stdout or done.stderr).splitlines()


def test_sockets_come_by_name_and_the_variables_are_gone(tmp_path: Path):
    with closing(listener(tmp_path / "a")) as a, closing(listener(tmp_path / "b")) as b:
        assert taken(a, b, LISTEN_FDNAMES="control:frontend") == [
            f"control 3 {tmp_path}/a False False",
            f"frontend 4 {tmp_path}/b False False",
            "[]",
        ]


def test_what_is_meant_for_another_process_is_left_alone():
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "frontend", "HOME": "/"}
    assert take_inherited(environment) == {}
    assert environment == {"HOME": "/"}
    assert take_inherited({}) == {}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("frontend:backend", "78 fd 4 (backend): FileDescriptorName= must be frontend or control"),
        ("frontend:frontend", "78 fd 4 (frontend): there is one of this name already"),
        ("frontend", "78 LISTEN_FDNAMES: 1 names for 2 sockets"),
        ("", "78 fd 3 (unknown): FileDescriptorName= must be frontend or control"),
    ],
)
def test_a_unit_with_other_names_is_refused(tmp_path: Path, names: str, expected: str):
    with closing(listener(tmp_path / "a")) as a, closing(listener(tmp_path / "b")) as b:
        assert taken(a, b, LISTEN_FDNAMES=names) == [expected]


def test_a_count_that_is_none_is_refused():
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "two"}
    with pytest.raises(CvqdError, match="LISTEN_FDS: 'two' is not a number"):
        take_inherited(environment)


def test_wrong_kinds_are_refused_by_name():
    reading, writing = os.pipe()
    near, far = socket.socketpair()
    with socket.socket(socket.AF_INET) as internet, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as grams:
        internet.bind(("127.0.0.1", 0))
        internet.listen()
        for passed, reason in (
            (internet, "is no Unix stream socket"),
            (grams, "is no Unix stream socket"),
            (reading, "Socket operation on non-socket"),
            (near, "does not listen; the socket unit needs Accept=no"),
        ):
            assert taken(passed, LISTEN_FDNAMES="frontend") == [f"73 fd 3 (frontend): {reason}"]
    near.close()
    far.close()
    os.close(reading)
    os.close(writing)
