"""What people and programs get: text, JSON, the page, the exit code."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tracemalloc
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvqd.events import CATALOGUE
from cvqd.report.as_json import (
    AnomalyReport,
    FileReport,
    MoveReport,
    RehearsalReport,
    Report,
    RunReport,
    report,
)
from cvqd.report.line import Line, parse
from cvqd.report.markup import Markup, element, join
from cvqd.report.page import page
from cvqd.report.reader import LogFile
from cvqd.report.scale import duration, mark, marks
from cvqd.report.story import Story
from cvqd.report.text import render
from kit.report_logs import PHASES, Daemon, found, migrated, rehearsed, written

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = "</title><script>alert(1)</script>\x1b[31m\ud800\n\"'&"


def cvqd(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cvqd", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def unwell() -> Daemon:
    """A log with a good deal of trouble in it."""
    daemon = Daemon(run_id="badbadbadbad")
    daemon.started()
    for number in range(6):
        daemon.host.passes(3000)
        daemon.command(debug=True)
        daemon.move(str(number))
    daemon.move("slow", phases=PHASES | {"replay": 90_000})
    daemon.move("failing", fails_in="replay")
    daemon.move("other", digests=("81fa90c2", "deadbeef"))
    daemon.emit("cvq.command.expired", command_id=99, command="mac.addr_set", elapsed_us=1_000_000)
    daemon.seq += 3
    daemon.command()
    daemon.move("open", ends=False)
    return daemon


def hostile() -> Daemon:
    """Every text in it is an attack."""
    daemon = Daemon(instance=HOSTILE, device=HOSTILE, run_id=HOSTILE)
    daemon.started()
    daemon.command(HOSTILE)
    daemon.emit("rehearsal.started", rehearsal=HOSTILE, to=HOSTILE, times=2, back=False, dry=False)
    for _ in range(2):
        daemon.move(HOSTILE, source=HOSTILE, target=HOSTILE, digests=(HOSTILE, "x"), phases={HOSTILE: 5})
    daemon.emit("switchover.failed", move=HOSTILE, phase=HOSTILE, reason=HOSTILE, guest_on=HOSTILE)
    daemon.emit("rehearsal.finished", rehearsal=HOSTILE, moves=2, failed=0, blackout_us=5, verdict=HOSTILE)
    return daemon


class Structure(HTMLParser):
    """Elements that are well nested, and what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.elements.add(tag)
        self.attributes += attrs

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_exit_code_says_how_it_was(tmp_path):
    good, bad, foreign = written(tmp_path, rehearsed(4), unwell(), ["hello", "{}"])
    assert cvqd("report", good).returncode == 0
    assert cvqd("report", good, bad).returncode == 1
    told = cvqd("report", foreign)
    assert (told.returncode, told.stdout, told.stderr) == (65, "", "cvqd: no line in there is cvqd's\n")
    told = cvqd("report", str(tmp_path / "gone"))
    assert (told.returncode, told.stderr) == (66, f"cvqd: {tmp_path}/gone: No such file or directory\n")
    assert cvqd("report").returncode == 64
    assert cvqd("report", good, "--json", "--html", "x").returncode == 64
    told = cvqd("report", good, "--html", str(tmp_path / "no" / "page.html"))
    assert (told.returncode, told.stderr) == (
        73,
        f"cvqd: {tmp_path}/no/page.html: No such file or directory\n",
    )


def test_a_report_needs_no_event_loop(tmp_path):
    (path,) = written(tmp_path, rehearsed(2))
    heavy = {"trio", "structlog", "yaml", "asyncio", "gzip", "cvqd.simulator"}
    code = (
        "import sys; from cvqd.cli import main; "
        f"main(['report', {path!r}, '--html', {str(tmp_path / 'x.html')!r}]); "
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert told.stdout == "[]\n"


def test_text_says_the_verdict_first_and_fits_a_terminal(tmp_path):
    (path,) = written(tmp_path, unwell())
    told = cvqd("report", path)
    lines = told.stdout.splitlines()
    assert lines[0] == "10 moves, 4 not well; longest blackout 90.7 ms; 6 anomalies"
    assert told.stderr == ""
    text = render(found(path), 100)
    assert "odd: move 7, vm0: simulator → spare" in text.splitlines()
    for needle in ("digest.unequal", "move.unfinished", "UNEQUAL", "the guest is on the source"):
        assert needle in text
    bars = [line for line in text.splitlines() if "█" in line or "░" in line]
    assert bars
    assert max(map(len, bars)) <= 100


def test_text_survives_a_terminal_that_has_no_arrows(tmp_path):
    (path,) = written(tmp_path, rehearsed(2))
    told = cvqd("report", path, env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)})
    assert told.returncode == 0, told.stderr
    assert "simulator ? spare" in told.stdout


def test_json_has_the_documented_keys(tmp_path):
    path, other = written(tmp_path, rehearsed(2), unwell())
    told = cvqd("report", path, other, "--json")
    content = json.loads(told.stdout)
    assert set(content) == set(Report.__annotations__)
    for key, kind in (
        ("moves", MoveReport),
        ("anomalies", AnomalyReport),
        ("files", FileReport),
        ("runs", RunReport),
        ("rehearsals", RehearsalReport),
    ):
        assert content[key]
        assert set(content[key][0]) == set(kind.__annotations__), key
    move = next(move for move in content["moves"] if move["rehearsal"])
    assert [phase["phase"] for phase in move["phases"]] == list(PHASES)
    assert move["phases"][0]["begin_us"] == 0
    assert move["place"] == {"file": path, "line": 25, "ts": "2026-11-22T17:12:18.095Z"}


@pytest.mark.parametrize(
    "logs",
    [(rehearsed(3),), (unwell(),), migrated(), (hostile(),)],
    ids=["rehearsed", "unwell", "migrated", "hostile"],
)
def test_the_page_is_one_well_formed_file_that_asks_for_nothing(tmp_path, logs):
    text = page(found(*written(tmp_path, *logs)))
    text.encode()
    structure = Structure(text)
    assert not structure.elements & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "image",
        "use",
        "base",
        "form",
    }
    names = {name for name, _ in structure.attributes}
    assert not {name for name in names if name.startswith("on")} | (
        names & {"src", "srcset", "xlink:href", "style"}
    )
    targets = {value for name, value in structure.attributes if name == "href"}
    ids = [value for name, value in structure.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    # every link leads to a place on the page
    assert targets <= {f"#{value}" for value in ids}
    assert "url(" not in text
    assert "@import" not in text
    assert re.findall(r"https?:", text) == []


def test_nothing_from_a_log_is_markup_or_an_escape_sequence(tmp_path):
    findings = found(*written(tmp_path, hostile()))
    assert findings.total
    text = page(findings)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    for shown in (text, render(findings)):
        assert "\x1b" not in shown
        assert "\ud800" not in shown
    json.dumps(report(findings)).encode()


def test_markup_escapes_what_is_not_markup():
    assert element("a", "<", element("b", "&"), class_="x", href='"', id=None) == (
        '<a class="x" href="&quot;">&lt;<b>&amp;</b></a>'
    )
    assert element("rect", x=1.5, y=2.0) == '<rect x="1.5" y="2"/>'
    assert join("<", Markup("<")) == "&lt;<"


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "0 µs"),
        (7, "7 µs"),
        (999, "999 µs"),
        (1000, "1.00 ms"),
        (23_100, "23.1 ms"),
        (1_840_000, "1.84 s"),
    ],
)
def test_durations_read_well(us, text):
    assert duration(us) == text


def test_an_axis_has_round_numbers():
    assert [mark(us) for us in marks(0, 4319, 7)] == ["0", "1 ms", "2 ms", "3 ms", "4 ms"]
    assert list(marks(3, 3)) == [3]


FAMILIES = ("switchover", "rehearsal", "snapshot", "state", "log", "device", "service", "cvq")
NAMES = [name for name in CATALOGUE if name.split(".")[0] in FAMILIES]
FIELDS = sorted({field for name in NAMES for field in CATALOGUE[name].fields})
VALUES: tuple[object, ...] = (
    *("switchover", "dry", "migration", "front-end", "start", "prepare", "replay", "a", "b", "", "<&\x1b"),
    *(0, 1, 7, 5000, -1, 1 << 62, 1 << 64, 1.5, None, True, [0, 1, 2], [[]], {"a": 1}),
)
STAMPS = ("2026-11-22T17:12:17.000Z", "2026-11-22T17:12:17.500Z", "nonsense, but 24 letters")


@settings(deadline=None)
@given(st.integers(0, 1 << 32))
def test_no_story_is_too_strange(seed):
    """Any events in any order, with any values: they are read, and shown in every form."""
    roll = random.Random(seed)
    lines = []
    for count in range(1, roll.randrange(40)):
        fields = {field: roll.choice(VALUES) for field in roll.sample(FIELDS, 12)}
        header = {
            "schema": 1,
            "ts": roll.choice(STAMPS),
            "mono_ns": roll.choice([roll.randrange(10**7), roll.getrandbits(63)]),
            "seq": roll.choice([count, roll.randrange(60), roll.getrandbits(62)]),
            "run_id": roll.choice(["r1", "r2", "\x1b<r>"]),
            "instance": "vm0",
            "event": roll.choice(NAMES),
        }
        parsed = parse(json.dumps(fields | header).encode())
        assert parsed is not None
        lines.append(Line("log", count, parsed))
    followed = Story()
    followed.feed(lines)
    findings = followed.conclude([LogFile("log", len(lines), len(lines))])
    Structure(page(findings))
    render(findings).encode()
    json.dumps(report(findings)).encode()


def test_memory_does_not_grow_with_the_log(tmp_path):
    def lines(commands: int) -> Iterator[str]:
        daemon = Daemon()
        daemon.started()
        for number in range(commands):
            daemon.command(debug=True)
            if number % 100 == 0:
                # lines that are lost, and commands that are never answered
                daemon.seq += number % 3
                daemon.emit("cvq.command.received", command_id=1_000_000 + number, command="x", bytes=4)
            yield from daemon.lines
            daemon.lines.clear()

    peaks = []
    for commands in (1000, 6000):
        (path,) = written(tmp_path, "\n".join(lines(commands)).encode())
        tracemalloc.start()
        assert found(path).events > 3 * commands
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000, peaks
