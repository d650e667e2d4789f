"""cvqd-events(7): the log, line by line."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from cvqd import events
from cvqd.manual.event_fields import COMMON, FIELDS
from cvqd.manual.roff import sentence

if TYPE_CHECKING:
    from cvqd.events import Event
    from cvqd.manual.roff import Page

SUMMARY: Final = "log events of the shadow control queue daemon"


def write(page: Page) -> None:
    """Everything below the name."""
    page.section("DESCRIPTION")
    page.paragraph(
        "cvqd writes its log to standard error: one JSON object to a line, or the same for people where"
        " standard error is a terminal (`log.format` in `cvqd.yaml`(5) decides). Under systemd each line"
        " carries its priority. Names of events are stable, and so are the fields listed with each; what"
        " a text such as `reason` or `detail` says is for people and may change."
    )
    page.paragraph(
        "Events marked `rate limited` can be caused at will, by a guest, its front-end or a client of the"
        " control socket. What is left out of them is counted by `log.limited`."
    )
    page.section("EVERY LINE")
    for name, meaning in COMMON.items():
        page.item(f"`{name}`", meaning)
    page.section("EVENTS")
    for noun, group in groupby(_sorted_by_noun(), key=_noun):
        page.subsection(noun)
        for event in group:
            page.item(_term(event), sentence(event.meaning), *_fields(event))
    page.section("FIELDS")
    page.paragraph("What a field means wherever it occurs:")
    for name, meaning in FIELDS.items():
        page.item(f"`{name}`", sentence(meaning))
    page.section("EXAMPLES")
    page.paragraph("What went wrong since yesterday, from the journal:")
    page.example("journalctl --unit cvqd@vm0 --priority warning --since yesterday --output cat | jq .")
    page.paragraph("The life of one command:")
    page.example("jq -c 'select(.command_id == 8)' vm0.log")
    page.paragraph("How long commands took, in microseconds, slowest first:")
    page.example(
        'jq -r \'select(.event == "cvq.command.acked") | "\\(.elapsed_us) \\(.command)"\' vm0.log | sort -rn'
    )
    page.section("SEE ALSO")
    page.paragraph("`cvqd`(8), `cvqd.yaml`(5), `journalctl`(1), `jq`(1)")


def _noun(event: Event) -> str:
    return event.name.partition(".")[0]


def _sorted_by_noun() -> list[Event]:
    """The catalogue, nouns in their order of first appearance."""
    order = {noun: index for index, noun in enumerate(dict.fromkeys(map(_noun, events.CATALOGUE.values())))}
    return sorted(events.CATALOGUE.values(), key=lambda event: order[_noun(event)])


def _term(event: Event) -> str:
    return f"`{event.name}`  ({event.level}{', rate limited' if event.guest else ''})"


def _fields(event: Event) -> list[str]:
    return ["Fields: " + ", ".join(f"`{field}`" for field in event.fields) + "."] if event.fields else []
