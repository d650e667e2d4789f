"""The README's picture is what a report draws; ``python tests/test_report_example.py`` writes it."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

from cvqd.report.chart import chart
from cvqd.report.markup import Markup, element
from cvqd.report.page import style
from cvqd.report.shown import in_detail
from cvqd.report.timeline import timeline
from kit.report_logs import found, rehearsed, written

EXAMPLE = Path(__file__).with_name("report") / "example.svg"
README = Path(__file__).resolve().parents[1] / "README.md"
WIDTH, MARGIN = 960, 8


def drawn() -> str:
    """The blackouts of sixty moves, and the longest of them."""
    with tempfile.TemporaryDirectory() as directory:
        findings = found(*written(Path(directory), rehearsed(60)))
    assert findings.blackouts is not None
    (longest,) = in_detail(findings.moves, 1)
    y = MARGIN
    pictures = []
    for picture in (chart(findings.moves, findings.blackouts), timeline(longest)):
        shape = re.search(r'viewBox="0 0 (\d+) (\d+)"', picture)
        assert shape
        # links lead to places on a page
        text = re.sub(r"</?a\b[^>]*>", "", picture)
        pictures.append(
            Markup(text.replace("<svg", f'<svg y="{y}" width="{shape[1]}" height="{shape[2]}"', 1))
        )
        y += int(shape[2]) + MARGIN
    paper = element("rect", width=WIDTH, height=y, rx=8, fill="var(--paper)")
    picture = element(
        "svg",
        element("style", style("picture.css")),
        paper,
        *pictures,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {y}",
    )
    # a line for each element, so that a change can be read
    return picture.replace("><", ">\n<") + "\n"


def test_the_readmes_picture_is_what_a_report_draws():
    ET.fromstring(drawn())
    assert EXAMPLE.read_text() == drawn(), "run: python tests/test_report_example.py"
    assert "](tests/report/example.svg)" in README.read_text()


if __name__ == "__main__":
    EXAMPLE.write_text(drawn())
    sys.exit(0)
