"""The report as one page: text, pictures and style in one file that loads nothing else.

No script, no font, no picture from elsewhere, and a policy in the page that
forbids them.  Whatever came from a log goes through ``markup``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from cvqd.report.anomaly import KINDS
from cvqd.report.blackout import RULE
from cvqd.report.chart import chart
from cvqd.report.markup import Markup, element, join
from cvqd.report.scale import duration, plural
from cvqd.report.shown import in_detail, route, when
from cvqd.report.timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cvqd.report.anomaly import Anomaly
    from cvqd.report.findings import Findings
    from cvqd.report.move import Move
    from cvqd.report.run_log import RunLog

#: moves that have a picture of their own
PICTURES: Final = 24
#: rows of the table of moves; of runs
ROWS: Final = 500
RUNS: Final = 50


def page(findings: Findings) -> str:
    """The HTML file."""
    return "<!doctype html>\n" + element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element(
                "meta",
                http_equiv="Content-Security-Policy",
                content="default-src 'none'; style-src 'unsafe-inline'",
            ),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", f"cvqd report: {findings.verdict}"),
            element("style", style("picture.css", "page.css")),
        ),
        element("body", element("main", *_body(findings))),
        lang="en",
    )


def style(*names: str) -> Markup:
    """Style sheets of this package."""
    here = Path(__file__)
    return Markup("".join(here.with_name(name).read_text(encoding="utf-8") for name in names))


def _body(findings: Findings) -> Iterator[Markup]:
    yield element("h1", "cvqd report")
    verdict = "verdict well" if findings.well else "verdict"
    yield element("p", findings.verdict, class_=verdict)
    yield from _figures(findings)
    anomalies = findings.anomalies.kept()
    if anomalies:
        yield from _anomalies(findings, anomalies)
    moves = findings.moves
    if findings.blackouts is not None and len(moves) > 1:
        yield element("h2", "Blackouts")
        yield element("figure", chart(moves, findings.blackouts))
    detailed = in_detail(moves, PICTURES)
    if detailed:
        yield element("h2", "Moves")
        if len(detailed) < findings.total:
            yield element(
                "p",
                f"{len(detailed)} of {findings.total}: the longest blackout and those that are not well.",
                class_="soft",
            )
        for move in detailed:
            yield _move(move)
    if len(moves) > 1:
        yield from _table(findings, {move.number for move in detailed})
    yield from _logs(findings)
    if anomalies:
        yield from _lines(anomalies)


def _figures(findings: Findings) -> Iterator[Markup]:
    moves = findings.moves
    compared = [move for move in moves if move.digest_before and move.digest_after]
    equal = sum(move.digest_before == move.digest_after for move in compared)
    figures = [("moves", str(findings.total)), ("well", str(findings.verdicts["well"]))]
    if findings.blackouts is not None:
        for name, us in (("median", findings.blackouts.median), ("longest", findings.blackouts.most)):
            figures.append((f"{name} blackout", duration(us)))
    if compared:
        figures.append(("digests equal", f"{equal} of {len(compared)}"))
    figures.append(("anomalies", str(findings.anomalies.counts.total())))
    yield element(
        "dl",
        *(element("div", element("dt", name), element("dd", value)) for name, value in figures),
        class_="figures",
    )
    for rehearsal in findings.rehearsals:
        asked = f"rehearsal {rehearsal.name} of {rehearsal.line.instance}"
        yield element("p", f"{asked}: {rehearsal.asked}. {rehearsal.outcome}", class_="soft")


def _move(move: Move) -> Markup:
    return element(
        "section",
        element(
            "h3",
            _pill(move.verdict),
            f" {move.number}. {route(move)}",
        ),
        element("p", f"{when(move)}, {move.kind} {move.name}, ", _place(move), class_="soft"),
        _digests(move),
        element("figure", timeline(move)),
        *(element("p", text, class_="soft") for text in _remarks(move)),
        class_="move",
        id=f"move-{move.number}",
    )


def _remarks(move: Move) -> Iterator[str]:
    if move.failure:
        yield f"Failed {move.failure}."
    if move.lost_rings:
        yield f"Did not come back: ring {', '.join(map(str, sorted(move.lost_rings)))}."
    if move.clock:
        yield f"Times are from the {move.clock}."
    if "blackout.long" in move.anomalies:
        yield f"The blackout is long: {RULE}."


def _digests(move: Move) -> Markup:
    """State before and after, side by side."""
    before, after = move.digest_before or "unknown", move.digest_after or "unknown"
    known = bool(move.digest_before and move.digest_after)
    sign = "compared with" if not known else "equals" if before == after else "differs from"
    replayed = "" if move.replayed is None else f", {plural(move.replayed, 'command')} replayed"
    return element(
        "p",
        "State ",
        element("code", before),
        f" before {sign} ",
        element("code", after),
        f" after{replayed}",
        class_="soft unequal" if known and before != after else "soft",
    )


def _pill(verdict: str) -> Markup:
    return element("span", verdict, class_=f"pill {verdict}")


def _place(move: Move) -> Markup:
    return element("code", f"{move.line.file}:{move.line.number}")


def _table(findings: Findings, detailed: set[int]) -> Iterator[Markup]:
    moves = findings.moves[-ROWS:]
    yield element("h2", "All moves" if len(moves) == findings.total else f"The last {len(moves)} moves")
    heads = ("", "", "when", "from → to", "took", "blackout", "replayed", "digest after", "line")
    numbers = ("took", "blackout", "replayed")
    rows = [
        element("tr", *(element("th", head, class_="number" if head in numbers else None) for head in heads))
    ]
    for move in moves:
        name = str(move.number)
        number = element("a", name, href=f"#move-{name}") if move.number in detailed else name
        figures = (
            duration(move.elapsed_us),
            "" if move.blackout_us is None else duration(move.blackout_us),
            "" if move.replayed is None else str(move.replayed),
        )
        own = None if move.number in detailed else f"move-{name}"
        rows.append(
            element(
                "tr",
                element("td", number, class_="number", id=own),
                element("td", _pill(move.verdict)),
                element("td", when(move)),
                element("td", route(move)),
                *(element("td", figure, class_="number") for figure in figures),
                element("td", element("code", move.digest_after)),
                element("td", _place(move)),
            )
        )
    yield element("div", element("table", *rows), class_="scroll")


def _anomalies(findings: Findings, anomalies: Sequence[Anomaly]) -> Iterator[Markup]:
    yield element("h2", "Anomalies")
    rows = []
    for number, found in enumerate(anomalies, 1):
        place = f"{found.place.file}:{found.place.number}"
        move = "" if found.move is None else element("a", f"move {found.move}", href=f"#move-{found.move}")
        rows.append(
            element(
                "tr",
                element("td", element("b", found.kind), title=KINDS[found.kind]),
                element("td", found.text),
                element("td", move),
                element("td", found.instance),
                element("td", found.ts[11:23]),
                element("td", element("a", element("code", place), href=f"#line-{number}")),
            )
        )
    yield element("div", element("table", *rows), class_="scroll")
    if findings.anomalies.left_out:
        yield element("p", f"{findings.anomalies.left_out} more are only counted.", class_="soft")


def _lines(anomalies: Sequence[Anomaly]) -> Iterator[Markup]:
    yield element("h2", "Lines")
    lines = [
        element(
            "p",
            element("code", f"{found.place.file}:{found.place.number}", class_="soft"),
            " ",
            element("code", found.place.text),
            id=f"line-{number}",
        )
        for number, found in enumerate(anomalies, 1)
    ]
    yield element("div", *lines, class_="lines")


def _logs(findings: Findings) -> Iterator[Markup]:
    yield element("h2", "Logs")
    for file in findings.files:
        yield element("p", element("code", file.name), f": {file.summary}", class_="soft")
    for run in findings.runs[-RUNS:]:
        yield element("p", _run(run), class_="soft")
    if len(findings.runs) > RUNS:
        yield element("p", f"and {len(findings.runs) - RUNS} runs before", class_="soft")


def _run(run: RunLog) -> Markup:
    return join("run ", element("code", run.run_id), f" of {run.instance}: {run.summary}")
