"""Every file of the manuals by its place below a prefix such as ``/usr``."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cvqd import __version__, cli
from cvqd.manual import command_page, completion, config_page, events_page, schema
from cvqd.manual.command_tree import command
from cvqd.manual.roff import Page

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA: Final = "share/cvqd/cvqd.schema.json"


def write(prefix: Path) -> list[str]:
    """Write every file below ``prefix``; their paths from there."""
    written = files(today())
    for name, text in written.items():
        path = prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(written)


def today() -> str:
    """Date for the pages; ``SOURCE_DATE_EPOCH`` (reproducible-builds.org) decides where it is set."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    made = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return made.date().isoformat()


def files(date: str) -> Mapping[str, str]:
    """Text by path; ``date`` stands on the pages, ISO 8601."""
    source = f"cvqd {__version__}"
    parser = cli.parser()
    commands = Page(
        "cvqd", 8, command_page.SUMMARY, date=date, source=source, volume="System Manager's Manual"
    )
    command_page.write(commands, parser)
    keys = Page("cvqd.yaml", 5, config_page.SUMMARY, date=date, source=source, volume="File Formats Manual")
    config_page.write(keys)
    lines = Page(
        "cvqd-events",
        7,
        events_page.SUMMARY,
        date=date,
        source=source,
        volume="Miscellaneous Information Manual",
    )
    events_page.write(lines)
    tree = command(parser)
    return {
        **{
            f"share/man/man{page.section_number}/{page.name}": page.text() for page in (commands, keys, lines)
        },
        "share/bash-completion/completions/cvqd": completion.bash(tree),
        SCHEMA: schema.text(),
    }
