from __future__ import annotations

import contextlib
import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from cvqd.host.log_sink import Sink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    for fd in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(fd)


def read_all(fd: int) -> bytes:
    found = b""
    while True:
        try:
            chunk = os.read(fd, 1 << 20)
        except BlockingIOError:
            return found
        if not chunk:
            return found
        found += chunk


def numbered(count: int, size: int = 1000) -> list[bytes]:
    return [f"{number:06d}".encode().ljust(size - 1, b".") + b"\n" for number in range(count)]


def test_lines_go_straight_to_a_pipe_that_takes_them(pipe: tuple[int, int]):
    sink = Sink(pipe[1])
    sink.write(b"one\n")
    sink.write(b"two\n")
    assert read_all(pipe[0]) == b"one\ntwo\n"


def test_a_full_pipe_does_not_block_and_loses_only_the_newest_lines(pipe: tuple[int, int]):
    sink = Sink(pipe[1], capacity=50_000)
    lines = numbered(300)
    for line in lines:
        sink.write(line)  # blocks here, and the test times out, if the sink does
    assert sink.dropped > 0
    found = read_all(pipe[0])
    while not sink.flush():
        found += read_all(pipe[0])
    found += read_all(pipe[0])
    assert found == b"".join(lines[: 300 - sink.dropped])
    assert len(found) > 65536, "the pipe's page count and the buffer both hold lines"


def test_the_pipe_is_left_blocking_for_those_who_share_it(pipe: tuple[int, int]):
    Sink(pipe[1]).write(b"x\n")
    assert os.get_blocking(pipe[1])


def test_a_line_longer_than_the_pipe_arrives_whole(pipe: tuple[int, int]):
    sink = Sink(pipe[1])
    long = b"x" * 300_000 + b"\n"
    sink.write(long)
    sink.write(b"after\n")
    found = read_all(pipe[0])
    while not sink.flush():
        found += read_all(pipe[0])
    assert found + read_all(pipe[0]) == long + b"after\n"


def test_a_new_line_does_not_overtake_those_that_wait(pipe: tuple[int, int]):
    sink = Sink(pipe[1])
    lines = numbered(200)
    for line in lines[:150]:
        sink.write(line)
    found = read_all(pipe[0])
    for line in lines[150:]:
        sink.write(line)
    while not sink.flush():
        found += read_all(pipe[0])
    assert found + read_all(pipe[0]) == b"".join(lines)


async def test_the_task_writes_what_waits_once_the_reader_reads(pipe: tuple[int, int]):
    sink = Sink(pipe[1])
    lines = numbered(200)
    for line in lines:
        sink.write(line)
    found = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.flush_task)
        while len(found) < 200_000:
            await trio.lowlevel.wait_readable(pipe[0])
            found += read_all(pipe[0])
        nursery.cancel_scope.cancel()
    assert found == b"".join(lines)


async def test_the_task_serves_a_second_jam_as_well(pipe: tuple[int, int]):
    sink = Sink(pipe[1], capacity=120_000)  # one jam fits, two would not
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.flush_task)
        for _ in range(2):
            found = b""
            for line in numbered(150):
                sink.write(line)
            while len(found) < 150_000:
                await trio.lowlevel.wait_readable(pipe[0])
                found += read_all(pipe[0])
            assert found == b"".join(numbered(150))
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


def test_drops_are_reported_when_the_buffer_has_been_written(pipe: tuple[int, int]):
    sink = Sink(pipe[1], capacity=10_000)
    reports: list[int] = []

    def report() -> None:
        reports.append(sink.dropped)
        sink.dropped = 0

    sink.on_drained = report
    for line in numbered(100):
        sink.write(line)
    assert not sink.flush()
    dropped = sink.dropped
    assert dropped > 0
    assert reports == []
    while not sink.flush():
        read_all(pipe[0])
    assert reports == [dropped]


def test_a_reader_that_is_gone_is_no_error(pipe: tuple[int, int]):
    sink = Sink(pipe[1])
    os.close(pipe[0])
    sink.write(b"one\n")
    sink.write(b"two\n")
    assert sink.flush()
    assert sink.dropped == 2
    sink.close()


def test_a_socket_that_is_full_does_not_block():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(0)
        sink = Sink(ours.fileno(), capacity=20_000)
        lines = numbered(2000)
        for line in lines:
            sink.write(line)
        assert sink.dropped > 0
        assert ours.getblocking()
        found = read_all(theirs.fileno())
        while not sink.flush():
            found += read_all(theirs.fileno())
        found += read_all(theirs.fileno())
        assert found == b"".join(lines[: 2000 - sink.dropped])
        sink.close()


def test_a_file_takes_everything(tmp_path: Path):
    with (tmp_path / "log").open("wb") as file:
        sink = Sink(file.fileno(), capacity=10)
        for line in numbered(500):
            sink.write(line)
        sink.close()
    assert (tmp_path / "log").read_bytes() == b"".join(numbered(500))


def test_a_disk_that_was_full_has_whole_lines_again_and_says_what_is_missing(tmp_path: Path):
    # a limit on the size of files ends a write as a full disk does: in the middle of a line
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    lines = numbered(20)
    with (tmp_path / "log").open("wb") as file:
        sink = Sink(file.fileno())

        def report() -> None:
            said, sink.dropped = f"{sink.dropped} missing\n", 0
            sink.write(said.encode())

        sink.on_drained = report
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_500, limits[1]))
            for line in lines[:15]:
                sink.write(line)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        for line in lines[15:]:
            sink.write(line)
    found = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    assert found == [
        *lines[:10],
        lines[10][:500] + b"\n",
        lines[15],
        b"5 missing\n",
        *lines[16:],
    ]


def test_closing_gives_up_on_a_reader_that_does_not_read(pipe: tuple[int, int]):
    sink = Sink(pipe[1])
    for line in numbered(200):
        sink.write(line)
    sink.close(timeout=0.01)
    assert not sink.flush()
