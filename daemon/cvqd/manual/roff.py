r"""A man page in the macros of man(7), for groff and mandoc alike.

Text is what the tables of the README have: plain, with literals in backticks.  These
come out bold; in those that begin with ``-`` or ``cvqd``, words in capitals
stand for something and come out underlined, and so does a word in ``<>``.
"""

from __future__ import annotations

import re
import textwrap
from typing import Final

#: columns of the source, which mandoc asks for
_WIDTH: Final = 78

_ESCAPES: Final = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "^": "\\(ha", "~": "\\(ti", "`": "\\(ga"}

#: placeholders: FILE, N, COMMAND.NAME
_PLACEHOLDER: Final = re.compile(r"\b[A-Z][A-Z_]*\b(?![-./])")


class Page:
    """One page, written from top to bottom; ``date`` is that of its making, ISO 8601."""

    def __init__(self, name: str, section: int, summary: str, *, date: str, source: str, volume: str) -> None:
        self.name: Final = f"{name}.{section}"
        self.section_number: Final = section
        self._lines = [
            f'.TH {name.upper()} {section} {date} "{source}" "{volume}"',
            # no hyphenation of words that may be typed, no stretched spaces between them
            ".nh",
            ".ad l",
        ]
        self.section("NAME")
        self._lines.append(f"{escape(name)} \\- {escape(summary)}")

    def text(self) -> str:
        """The page as a file."""
        return "\n".join(self._lines) + "\n"

    def section(self, title: str) -> None:
        """Begin a section."""
        self._lines.append(f".SH {title}")

    def subsection(self, title: str) -> None:
        """Begin a part of a section."""
        self._lines.append(f".SS {escape(title)}")

    def paragraph(self, text: str) -> None:
        """Running text."""
        if not self._lines[-1].startswith((".SH", ".SS")):
            self._lines.append(".PP")
        self._flow(text)

    def synopsis(self, command: str, usage: str) -> None:
        """One way to call a command, as argparse writes it."""
        # a line that does not fit is continued with a hanging indent
        self._lines += [".HP 4", *_lines(f"{_bold(command)} {_usage(usage)}")]

    def item(self, term: str, text: str, *more: str) -> None:
        """A term and what it means; ``more`` are further lines."""
        self._lines += [".TP", markup(term)]
        self._flow(text or "\\&")
        for line in more:
            self._lines.append(".br")
            self._flow(line)

    def indent(self) -> None:
        """What follows belongs to the item before."""
        self._lines.append(".RS")

    def dedent(self) -> None:
        """The end of what ``indent`` began."""
        self._lines.append(".RE")

    def example(self, text: str) -> None:
        """Lines as they are typed."""
        self._lines += [".PP", ".in +4n", ".EX"]
        self._lines += [_guard("".join(_ESCAPES.get(c, c) for c in line)) for line in text.splitlines()]
        self._lines += [".EE", ".in"]

    def _flow(self, text: str) -> None:
        # a sentence to a line, so that the formatter knows where one ends
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`])", text):
            self._lines += _lines(markup(sentence))


def sentence(text: str) -> str:
    """A phrase of a table or of help, with a capital and a full stop."""
    text = text.rstrip(".")
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def markup(text: str) -> str:
    """Text with its literals marked up."""
    parts = text.split("`")
    assert len(parts) % 2, f"a backtick has no partner: {text}"
    return "".join(_literal(part) if index % 2 else escape(part) for index, part in enumerate(parts))


def escape(text: str) -> str:
    """Plain text; no line ends at a hyphen, and quotes are left to the formatter."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return text.replace(" … ", " to ").replace("…", "...").replace("≥", "\\(>=")


def _literal(text: str) -> str:
    if text.startswith("<"):
        return f"\\fI{text.strip('<>')}\\fR"
    if not text.startswith(("-", "cvqd ")):
        return _bold(text)
    pieces = []
    end = 0
    for match in _PLACEHOLDER.finditer(text):
        pieces += [_bold(text[end : match.start()]), f"\\fI{match[0]}\\fR"]
        end = match.end()
    return "".join([*pieces, _bold(text[end:])])


def _bold(text: str) -> str:
    typed = "".join(_ESCAPES.get(character, character) for character in text)
    return f"\\fB{typed}\\fR" if text else ""


def _usage(text: str) -> str:
    """Literals bold, placeholders underlined, brackets and bars plain."""
    return re.sub(
        r"(?P<typed>--?[a-z][a-z0-9-]*|\b[a-z][a-z0-9-]*\b)|(?P<stands>\b[A-Z][A-Z_]*\b)",
        lambda match: _bold(match["typed"]) if match["typed"] else f"\\fI{match['stands']}\\fR",
        text,
    ).replace("...", "\\&...")


def _lines(text: str) -> list[str]:
    wrapped = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [_guard(line) for line in wrapped]


def _guard(line: str) -> str:
    """Keep a line that begins like a request from being one."""
    return f"\\&{line}" if line.startswith((".", "'")) else line
