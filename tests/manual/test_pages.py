from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cvqd import cli, config, events
from cvqd.host.control import MAX_LINE
from cvqd.manual import command_page, event_fields
from cvqd.manual.command_tree import command
from cvqd.manual.config_page import EXAMPLE, NOTES
from cvqd.manual.files import files, today
from cvqd.manual.roff import Page, markup, sentence
from cvqd.telemetry import metrics

ROOT = Path(__file__).parents[2]
FILES = files("2026-11-22")
PAGES = [name for name in FILES if "/man/" in name]


def read(page: str) -> str:
    """The page as its reader has it, blanks made one."""
    shown = subprocess.run(
        ["mandoc", "-Tutf8", "-Owidth=200"], input=FILES[page], capture_output=True, text=True, check=True
    ).stdout
    return " ".join(re.sub(r".\x08", "", shown).split())


@pytest.mark.manual
@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_fault_that_mandoc_can_find(page: str):
    found = subprocess.run(
        ["mandoc", "-Tlint", "-Wstyle"], input=FILES[page], capture_output=True, text=True, check=False
    )
    assert (found.stdout, found.stderr, found.returncode) == ("", "", 0)


@pytest.mark.manual
def test_the_commands_page_has_every_verb_option_and_exit_status():
    text = read("share/man/man8/cvqd.8")
    for verb in command(cli.parser()).leaves:
        assert f"{verb.path} {verb.usage}".strip() in text
        for argument in verb.arguments:
            assert argument.help, f"{verb.path} {argument.usage} has no help"
            assert argument.help[1:].rstrip(".").replace("`", "") in text, argument.help
    for code, meaning in command_page.EXIT_STATUS.items():
        assert f" {code} {meaning.replace('`', '')}" in text


@pytest.mark.manual
def test_the_configurations_page_has_every_key_with_value_and_meaning():
    text = read("share/man/man5/cvqd.yaml.5")
    for row in config.table()[2:]:
        *cells, meaning = (cell.strip() for cell in row.strip("|").split("|"))
        key, value, default, said = (cell.replace("`", "") for cell in (*cells, sentence(meaning)))
        if key.endswith(".kind"):
            assert f"kind: {value} {said}" in text
        else:
            # what has no default says so, or that it is one of two
            given = {"required": " Required.", "none": ""}.get(default, f" Default: {default}.")
            assert f"{key} {value} {said}{given}".replace(" … ", " to ") in text
    assert set(NOTES) <= {entry.key for entry in config.FILE.fields}
    config.parse(EXAMPLE, "vm0.yaml")
    assert " ".join(EXAMPLE.split()) in text


@pytest.mark.manual
def test_the_events_page_has_every_event_with_level_meaning_and_fields():
    text = read("share/man/man7/cvqd-events.7")
    for event in events.CATALOGUE.values():
        mark = ", rate limited" if event.guest else ""
        assert f"{event.name} ({event.level}{mark}) {sentence(event.meaning).replace('`', '')}" in text
        if event.fields:
            assert f"Fields: {', '.join(event.fields)}." in text


@pytest.mark.manual
def test_the_metrics_page_has_every_metric_with_kind_meaning_and_labels():
    text = read("share/man/man7/cvqd-metrics.7")
    for metric in metrics.CATALOGUE.values():
        said = f"{metric.sample} ({metric.kind}) {sentence(metric.meaning)}"
        if metric.labels:
            said += f" Labels: {', '.join(metric.labels)}."
        assert said in text


SOURCES = {
    path: path.read_text()
    for path in (ROOT / "daemon" / "cvqd").rglob("*.py")
    if not {"testing", "manual"} & set(path.parts)
}
SOURCE = "\n".join(SOURCES.values())


def test_the_signals_that_are_taken_are_on_the_page():
    # those of a verb that holds a terminal need no manual
    daemon = "\n".join(text for path, text in SOURCES.items() if path.name not in ("terminal.py", "watch.py"))
    taken = set(re.findall(r"signal\.(SIG[A-Z0-9]+)\b", daemon))
    assert taken == set(command_page.SIGNALS)


def test_the_environment_variables_that_are_read_are_on_the_page():
    found = re.findall(
        r'environ(?:ment)?\.(?:get|pop)\("([A-Z_]+)"|"([A-Z_]+)" (?:not )?in os\.environ', SOURCE
    )
    assert {name for pair in found for name in pair if name} == {
        name for names in command_page.ENVIRONMENT for name in names
    }


def test_the_longest_request_is_the_control_sockets():
    assert MAX_LINE % (1 << 20) == 0
    words = " ".join(FILES["share/man/man8/cvqd.8"].split())
    assert f"at most {MAX_LINE >> 20} MiB for a request" in words


def test_the_exit_codes_that_errors_have_are_on_the_page():
    codes = set(map(int, re.findall(r"exit_code = (\d+)$", SOURCE, re.MULTILINE)))
    assert len(codes) > 5
    for verb in command(cli.parser()).leaves:
        (said,) = (text for text in verb.description if text.startswith("Exit status: "))
        codes |= set(map(int, re.findall(r"\b\d{1,3}\b", said)))
    assert codes <= set(command_page.EXIT_STATUS)


def test_each_field_of_an_event_has_a_meaning_and_there_are_no_others():
    used = {field for event in events.CATALOGUE.values() for field in event.fields}
    assert set(event_fields.FIELDS) == used


def test_the_usage_says_what_excludes_what():
    usage = {verb.path: verb.usage for verb in command(cli.parser()).leaves}
    assert usage["cvqd run"] == "--config FILE [--socket-path PATH | --fd N]"
    assert usage["cvqd announce"] == "(INSTANCE | --config FILE)"
    assert usage["cvqd check-config"] == "FILE..."


def test_text_that_roff_would_take_for_its_own_is_text():
    page = Page("x", 1, "a-b", date="2026-11-22", source="s", volume="v")
    page.paragraph(".begins like a request, 'so does this, and \\fBthis\\fR is no bold")
    page.paragraph("'quoted'")
    lines = page.text().splitlines()
    assert "\\&.begins like a request, 'so does this, and \\efBthis\\efR is no bold" in lines
    assert "\\&'quoted'" in lines
    assert markup("say `--config FILE` or `<INSTANCE>`") == (
        "say \\fB\\-\\-config \\fR\\fIFILE\\fR or \\fIINSTANCE\\fR"
    )


def test_the_date_can_be_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert today() == "1970-01-01"


def test_a_wheel_carries_them_all(tmp_path: Path):
    # with what this environment has: nothing is fetched
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        carried = {name.partition(".data/data/")[2] for name in archive.namelist()}
    assert set(FILES) <= carried


def test_writing_them_needs_no_event_loop():
    """A build has PyYAML and nothing else."""
    program = """
import sys
sys.modules["trio"] = sys.modules["structlog"] = None
from cvqd.manual.files import files
files("2026-11-22")
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
