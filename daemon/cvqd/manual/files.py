"""Every file of the manuals by its place below a prefix such as ``/usr``."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cvqd import __version__, cli
from cvqd.manual import (
    bash_completion,
    command_page,
    config_page,
    events_page,
    fish_completion,
    metrics_page,
    schema,
    zsh_completion,
)
from cvqd.manual.command_tree import command
from cvqd.manual.roff import Page

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA: Final = "share/cvqd/cvqd.schema.json"

#: titles of a manual's sections
_VOLUMES: Final = {
    5: "File Formats Manual",
    7: "Miscellaneous Information Manual",
    8: "System Manager's Manual",
}


def write(prefix: Path) -> list[str]:
    """Write every file below ``prefix``; their paths from there."""
    written = files(today())
    for name, text in written.items():
        path = prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(written)


def today() -> str:
    """Date for the pages: that of ``SOURCE_DATE_EPOCH`` (reproducible-builds.org), if set."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    made = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return made.date().isoformat()


def files(date: str) -> Mapping[str, str]:
    """Text by path; ``date`` stands on the pages, ISO 8601."""
    parser = cli.parser()
    pages = [_page("cvqd", 8, command_page.SUMMARY, date), _page("cvqd.yaml", 5, config_page.SUMMARY, date)]
    pages += [
        _page("cvqd-events", 7, events_page.SUMMARY, date),
        _page("cvqd-metrics", 7, metrics_page.SUMMARY, date),
    ]
    commands, keys, events, metrics = pages
    command_page.write(commands, parser)
    config_page.write(keys)
    events_page.write(events)
    metrics_page.write(metrics)
    tree = command(parser)
    return {
        **{f"share/man/man{page.section_number}/{page.name}": page.text() for page in pages},
        "share/bash-completion/completions/cvqd": bash_completion.text(tree),
        "share/zsh/site-functions/_cvqd": zsh_completion.text(tree),
        "share/fish/vendor_completions.d/cvqd.fish": fish_completion.text(tree),
        SCHEMA: schema.text(),
    }


def _page(name: str, section: int, summary: str, date: str) -> Page:
    source = f"cvqd {__version__}"
    return Page(name, section, summary, date=date, source=source, volume=_VOLUMES[section])
