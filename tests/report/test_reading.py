"""Bytes to lines, files to one stream."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvqd.host.log_sink import Sink
from cvqd.host.logging import StructuredLog
from cvqd.report.line import Line, is_torn, number, numbers, parse, printable, word
from cvqd.report.progress import Progress
from cvqd.report.reader import LONGEST, LogFile, Reader, UnreadableError, _raw_lines
from kit.report_logs import Daemon, Host, written


def line() -> str:
    return Daemon().emit("service.stopped")


def test_what_the_daemon_writes_is_ours(tmp_path):
    with (tmp_path / "log").open("wb") as file:
        log = StructuredLog(Sink(file.fileno()), instance="vm0", device="simulator", format="json")
        log.emit("device.stopped", how="reset", reason="é \x1b[31m")
        log.close()
    (own,) = Reader([str(tmp_path / "log")]).lines()
    assert (own.seq, own.instance, word(own.fields, "reason")) == (1, "vm0", "é \\u001b[31m")
    assert abs((own.wall_us or 0) / 1e6 - time.time()) < 60
    assert set(parse(line().encode()) or ()) <= set(own.fields), "the tests' own writer has another header"


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda text: text,
        lambda text: f"<6>{text}",
        lambda text: f"Nov 22 17:12:17 host cvqd[12]: {text}",
        lambda text: json.dumps(json.loads(text)),
        lambda text: json.dumps({"_PID": "12", "MESSAGE": text}),
        lambda text: json.dumps({"MESSAGE": list(text.encode())}),
        lambda text: text[:60] + text,
    ],
    ids=["bare", "prefix", "syslog", "spaced", "journal", "journal bytes", "behind a torn one"],
)
def test_a_line_is_found_in_what_collectors_make_of_it(wrapped):
    assert parse(wrapped(line()).encode()) == json.loads(line())


def test_a_status_in_a_line_does_not_hide_the_line():
    """SIGUSR1's status has a schema of its own."""
    reported = Daemon().emit("status.reported", status={"schema": 1, "instance": "vm0", "phase": "waiting"})
    for text in (reported, f"<6>{reported}", reported[:60] + reported):
        assert parse(text.encode()) == json.loads(reported)


@pytest.mark.parametrize(
    "change",
    [
        {"seq": "1"},
        {"seq": -1},
        {"seq": True},
        {"seq": 1 << 63},
        {"mono_ns": 1.5},
        {"ts": "yesterday"},
        {"run_id": None},
        {"run_id": "x" * 1000},
        {"event": 3},
        {"instance": []},
    ],
    ids=str,
)
def test_a_header_that_is_not_ours_is_foreign(change):
    assert parse(json.dumps(json.loads(line()) | change).encode()) is None


@pytest.mark.parametrize("cut", [30, 60, -1])
def test_a_torn_line_is_known_as_one(cut):
    torn = line()[:cut].encode()
    assert parse(torn) is None
    assert is_torn(torn)
    assert not is_torn(b"hello")


@settings(deadline=None)
@given(st.binary())
def test_no_bytes_are_too_strange(raw):
    assert parse(raw) is None


@settings(deadline=None)
@given(st.integers(0, 400), st.binary(max_size=4))
def test_no_damage_is_too_strange(at, instead):
    raw = bytearray(line().encode())
    raw[at : at + len(instead)] = instead
    fields = parse(bytes(raw))
    if fields is not None:
        found = Line("x", 1, fields)
        assert found.wall_us is None or found.wall_us > -(1 << 63)
        assert (found.ts + found.instance + found.place.text).isprintable()


def test_nesting_without_end_is_foreign():
    assert parse(b"[" * 100_000) is None
    assert parse(line().encode()[:-1] + b',"x":' + b"[" * 100_000) is None


def test_fields_are_what_they_are_asked_for():
    fields = {
        "n": 5,
        "list": [1, 2, -1, "3", True, 1 << 40],
        "word": "a\n\ud800b",
        "long": "x" * 1000,
        "b": True,
    }
    assert (number(fields, "n"), number(fields, "word"), number(fields, "b"), number(fields, "no")) == (
        5,
        None,
        None,
        None,
    )
    assert (numbers(fields, "list"), numbers(fields, "n")) == ({1, 2}, frozenset())
    assert (word(fields, "word"), word(fields, "no"), word(fields, "n")) == ("a\\u000a\\ud800b", "", "5")
    assert len(word(fields, "long")) < 300
    assert printable("vm0\x1b]0;") == "vm0\\u001b]0;"


def seqs(*paths: str) -> list[int]:
    return [one.seq for one in Reader(paths).lines()]


def test_files_are_read_side_by_side_in_order_of_time_whatever_order_they_are_named_in(tmp_path):
    host, daemon = Host(), Daemon()
    daemon.host = host
    for _ in range(20):
        daemon.command()
        host.passes(50_000)
    older, newer = written(tmp_path, daemon.lines[:9], daemon.lines[9:])
    assert seqs(newer, older) == seqs(older, newer) == list(range(1, 21))


def test_a_clock_that_is_set_back_does_not_turn_a_file_around(tmp_path):
    daemon = Daemon()
    daemon.command()
    daemon.host.wall_us -= 3_600_000_000
    daemon.command()
    paths = written(tmp_path, daemon, Daemon(run_id="other").lines)
    assert seqs(*paths) == [1, 2]


def test_a_file_named_twice_is_read_once(tmp_path):
    (path,) = written(tmp_path, [line()])
    assert seqs(path, path) == [1]


def test_gzip_is_read_as_far_as_it_goes(tmp_path):
    daemon = Daemon()
    for _ in range(2000):
        daemon.command()
    packed = gzip.compress("\n".join(daemon.lines).encode())
    whole, torn, damaged = written(
        tmp_path, packed, packed[: len(packed) // 2], packed[:8000] + b"\xff" * 8000 + packed[16000:]
    )
    assert seqs(whole) == list(range(1, 2001))
    for path in (torn, damaged):
        reader = Reader([path])
        got = [one.seq for one in reader.lines()]
        assert got[:500] == list(range(1, 501))
        assert len(got) < 2000
        assert reader.files[0].cut


def test_standard_input_is_a_log():
    told = subprocess.run(
        [sys.executable, "-m", "cvqd", "report", "-"],
        input=gzip.compress(line().encode()),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (told.returncode, told.stderr) == (0, b"")
    assert b"-: 1 line, 1 of ours" in told.stdout


def test_lines_are_counted_by_what_they_are(tmp_path):
    endless = b"x" * (3 * LONGEST)
    content = b"\n".join([line().encode(), b"hello", b"", endless, line().encode()[:70]])
    (path,) = written(tmp_path, content)
    reader = Reader([path])
    assert len(list(reader.lines())) == 1
    file = reader.files[0]
    assert (file.lines, file.events, file.foreign, file.torn) == (5, 1, 2, 1)
    assert file.summary == "5 lines, 1 of ours, 2 foreign, 1 torn"


def test_of_a_line_without_end_only_the_beginning_is_held(tmp_path):
    (path,) = written(tmp_path, b"x" * (5 * LONGEST) + b"\ny\n")
    with Path(path).open("rb") as file:
        assert [len(raw) for raw in _raw_lines(file)] == [LONGEST, 2]


def test_a_log_that_is_not_there_is_named_before_anything_is_read(tmp_path):
    (path,) = written(tmp_path, [line()])
    with pytest.raises(UnreadableError, match="gone: No such file"):
        Reader([path, str(tmp_path / "gone")]).lines()
    with pytest.raises(UnreadableError, match="Is a directory"):
        list(Reader([str(tmp_path)]).lines())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_that_goes_again(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = Terminal()
    progress = Progress(out)
    files = [LogFile("a", lines=2_000_000, bytes=600 << 20)]
    progress.show(files)
    assert out.getvalue() == ""
    now[0] += 2
    progress.show(files)
    progress.show(files)
    assert out.getvalue() == "\r2,000,000 lines, 600 MiB, 1,000,000 lines/s\x1b[K"
    progress.done()
    assert out.getvalue().endswith("\r\x1b[K")


def test_progress_is_for_a_terminal_only():
    out = io.StringIO()
    progress = Progress(out)
    progress._shown -= 60
    progress.show([LogFile("a")])
    progress.done()
    assert out.getvalue() == ""
