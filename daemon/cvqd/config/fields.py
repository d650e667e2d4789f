"""YAML read by a table of fields: the language that ``config`` is written in.

A ``Section`` is a table of ``Field``; reading one yields a value, or ``INVALID``
after noting each problem with its place in the file.  Scalars are read from
their text as written, so ``52:54:00:12:34:56`` and ``0660`` need no quotes (YAML
1.1 would take them for numbers).  Nothing here knows any key of cvqd.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import yaml

from cvqd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

#: a problem was noted where this value would be
INVALID: Final = object()
#: the key has no default
REQUIRED: Final = object()
#: a section that is left out is built from its fields' defaults
DEFAULTS: Final = object()

_TAG: Final = "tag:yaml.org,2002:"
#: values and mappings of a file, an alias counted wherever it stands: no text of ``config.MAX_BYTES``
#: holds as many, and a few aliases of aliases would be read for hours
_MOST_VALUES: Final = 1 << 17
_SCALAR_TAGS: Final = frozenset(
    _TAG + kind for kind in ("str", "int", "float", "bool", "timestamp", "value", "merge")
)


class Reader:
    """One reading of one file: its problems so far; ``names`` fill ``{}`` in defaults."""

    def __init__(self, file: str, names: Mapping[str, str]) -> None:
        self._file = file
        self._names = names
        self._problems: list[tuple[int, int, str]] = []
        self._values = 0

    def problem(self, line: int, column: int, key: str, reason: str) -> None:
        """Note a finding; ``line`` and ``column`` count from 1."""
        self._problems.append((line, column, f"{self._file}:{line}:{column}: {key}: {reason}"))

    def at(self, node: yaml.Node, key: str, reason: str) -> Any:
        """Note a finding where ``node`` starts; returns ``INVALID``."""
        self.problem(node.start_mark.line + 1, node.start_mark.column + 1, key, reason)
        return INVALID

    def count(self, node: yaml.Node) -> None:
        """Note that a value is read; ConfigError for one too many."""
        self._values += 1
        if self._values > _MOST_VALUES:
            self.at(node, "yaml", f"more than {_MOST_VALUES} values, each counted wherever an alias puts it")
            self.finish()

    def default(self, value: Any) -> Any:
        """Default of a field, with the instance's name filled in."""
        return value.format(**self._names) if isinstance(value, str) else value

    def compose(self, text: str) -> yaml.Node | None:
        """Node tree of the text's one document; None after a syntax error or for an empty text."""
        try:
            loader = yaml.SafeLoader(text)
        except yaml.reader.ReaderError as error:
            before = text[: error.position]
            self.problem(before.count("\n") + 1, len(before) - before.rfind("\n"), "yaml", error.reason)
            return None
        try:
            return loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark or loader.get_mark()
            # PyYAML's "but found another document" is half a sentence
            half = (error.problem or "").startswith("but ")
            reason = f"{error.context} {error.problem}" if half else error.problem or "not YAML"
            self.problem(mark.line + 1, mark.column + 1, "yaml", reason)
        except RecursionError:
            self.problem(1, 1, "yaml", "nested too deeply")
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # an escape such as "\UFFFFFFFF" or a %YAML version too long for an int
            mark = loader.get_mark()
            self.problem(mark.line + 1, mark.column + 1, "yaml", str(error).splitlines()[0])
        finally:
            loader.dispose()
        return None

    @property
    def clean(self) -> bool:
        """No problem yet."""
        return not self._problems

    def finish(self) -> None:
        """ConfigError with every problem, in the order of the file, if there is any."""
        if self._problems:
            raise ConfigError([text for _, _, text in sorted(self._problems)])


class Type(Protocol):
    """What a value may be."""

    @property
    def shown(self) -> str:
        """Type as the manual says it."""

    def read(self, reader: Reader, node: yaml.Node, key: str, /) -> Any:
        """Value, or INVALID after each finding was noted."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value written as one word; ``convert`` raises ValueError with the reason.

    ``schema`` says the same in JSON Schema as far as that can, for editors.
    """

    shown: str
    convert: Callable[[str], Any]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"}, compare=False, repr=False)

    def read(self, reader: Reader, node: yaml.Node, key: str) -> Any:
        """Converted value or INVALID."""
        reader.count(node)
        if not isinstance(node, yaml.ScalarNode):
            return reader.at(node, key, f"expected {plain(self.shown)}")
        if node.tag == _TAG + "null":
            return reader.at(node, key, f"has no value; expected {plain(self.shown)}")
        if node.tag not in _SCALAR_TAGS:
            return reader.at(node, key, f"tag {node.tag} is not supported")
        try:
            return self.convert(node.value)
        except ValueError as error:
            return reader.at(node, key, str(error))


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one type, whose plural is ``many``; read as a tuple."""

    item: Type
    many: str

    @property
    def shown(self) -> str:
        """Type as the manual says it."""
        return f"list of {self.many}"

    def read(self, reader: Reader, node: yaml.Node, key: str) -> Any:
        """Tuple or INVALID."""
        if not isinstance(node, yaml.SequenceNode):
            return reader.at(node, key, f"expected a {plain(self.shown)}")
        values = [self.item.read(reader, item, f"{key}[{index}]") for index, item in enumerate(node.value)]
        return INVALID if INVALID in values else tuple(values)


@dataclass(frozen=True, slots=True)
class MapOf:
    """Names to values of one type, whose plural is ``many``; empty if all are commented out."""

    item: Type
    many: str
    name: Scalar

    @property
    def shown(self) -> str:
        """Type as the manual says it."""
        return f"mapping of names to {self.many}"

    def read(self, reader: Reader, node: yaml.Node, key: str) -> Any:
        """Dictionary or INVALID."""
        if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null":
            return {}
        if not isinstance(node, yaml.MappingNode):
            return reader.at(node, key, f"expected a {plain(self.shown)}")
        values: dict[str, Any] = {}
        for name, value in entries(reader, node, key):
            try:
                values[self.name.convert(name.value)] = self.item.read(reader, value, join(key, name.value))
            except ValueError as error:
                values[name.value] = reader.at(name, key, str(error))
        return INVALID if INVALID in values.values() else values


@dataclass(frozen=True, slots=True)
class Field:
    """One key: its type, its default (``REQUIRED`` for none) and its line in the manual."""

    key: str
    type: Type
    default: Any
    doc: str
    shown_default: str | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with known keys; ``build`` takes them by name.

    ``build`` raises ValueError if they clash, with ``key: reason`` to blame one of them.  It wants
    exactly one of the keys ``exactly_one``, which are named here for the manuals.
    """

    shown: str
    fields: tuple[Field, ...]
    build: Callable[..., Any] = field(repr=False)
    exactly_one: tuple[str, ...] = ()

    def read(self, reader: Reader, node: yaml.Node, key: str, *, tag: str | None = None) -> Any:
        """Built value or INVALID; ``tag`` is a key that was read already."""
        reader.count(node)
        if isinstance(node, yaml.MappingNode):
            pairs = entries(reader, node, key)
        elif isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null":
            pairs = []  # every key of the section is commented out
        else:
            return reader.at(
                node, key or "yaml", f"expected a mapping with keys such as {self.fields[0].key}"
            )
        found = {name.value: value for name, value in pairs}
        values = {entry.key: self._value(reader, node, key, entry, found) for entry in self.fields}
        known = [*([tag] if tag else []), *values]
        for name, _ in pairs:
            if name.value not in known:
                reader.at(name, join(key, name.value), "unknown key" + did_you_mean(name.value, known))
        if INVALID in values.values():
            return INVALID
        try:
            return self.build(**values)
        except ValueError as error:
            blamed, _, reason = str(error).partition(": ")
            if blamed in values and reason:
                return reader.at(found.get(blamed, node), join(key, blamed), reason)
            return reader.at(node, key or "yaml", str(error))

    def _value(
        self, reader: Reader, node: yaml.Node, key: str, entry: Field, found: dict[str, yaml.Node]
    ) -> Any:
        path = join(key, entry.key)
        if entry.key in found:
            return entry.type.read(reader, found[entry.key], path)
        if entry.default is REQUIRED:
            return reader.at(node, path, "missing")
        return self._default(reader, entry)

    def _default(self, reader: Reader, entry: Field) -> Any:
        if entry.default is DEFAULTS and isinstance(entry.type, Section):
            section = entry.type
            # a private method of the same class
            return section.build(**{sub.key: section._default(reader, sub) for sub in section.fields})  # noqa: SLF001
        return reader.default(entry.default)


@dataclass(frozen=True, slots=True)
class Union:
    """A mapping whose ``kind`` says which section it is."""

    shown: str
    variants: Mapping[str, Section]

    def read(self, reader: Reader, node: yaml.Node, key: str) -> Any:
        """Value of the named variant or INVALID."""
        if not isinstance(node, yaml.MappingNode):
            return reader.at(node, key, f"expected a mapping with kind: {' or '.join(self.variants)}")
        kind_node = next((value for name, value in node.value if name.value == "kind"), None)
        path = join(key, "kind")
        if kind_node is None:
            return reader.at(node, path, f"missing; one of {', '.join(self.variants)}")
        kind = Scalar("kind", self._known).read(reader, kind_node, path)
        return INVALID if kind is INVALID else self.variants[kind].read(reader, node, key, tag="kind")

    def _known(self, kind: str) -> str:
        if kind not in self.variants:
            raise ValueError(
                f"{kind[:48]!r} is not one of {', '.join(self.variants)}{did_you_mean(kind, self.variants)}"
            )
        return kind


def plain(shown: str) -> str:
    """The manual's words for a type without markup, for messages."""
    return shown.replace("`", "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean level?`` or nothing."""
    import difflib  # noqa: PLC0415 -- 7 ms that only a mistake costs

    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def entries(reader: Reader, node: yaml.MappingNode, key: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    """Key and value nodes of a mapping; keys that are no words or are repeated are noted and left out."""
    lines: dict[str, int] = {}
    found = []
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            reader.at(name, key or "yaml", "a key must be a word")
        elif name.value in lines:
            reader.at(name, join(key, name.value), f"duplicate key, first in line {lines[name.value]}")
        else:
            lines[name.value] = name.start_mark.line + 1
            found.append((name, value))
    return found


def join(key: str, name: str) -> str:
    """Dotted path of a key; a name that would not print on one line is shown escaped."""
    shown = name if name.isprintable() and name else ascii(name)
    return f"{key}.{shown}" if key else shown


def rows(section: Section, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and meaning of every field, depth first, for the manual."""
    for entry in section.fields:
        key = join(prefix, entry.key)
        inner = entry.type
        if isinstance(inner, Section) and entry.default is DEFAULTS:
            yield from rows(inner, key)
            continue
        default = entry.shown_default or ("required" if entry.default is REQUIRED else str(entry.default))
        yield key, inner.shown, default, entry.doc
        if isinstance(inner, Union):
            for kind, variant in inner.variants.items():
                yield f"{key}.kind", f"`{kind}`", "required", variant.shown
                yield from rows(variant, key)
        elif isinstance(inner, ListOf) and isinstance(inner.item, Section):
            yield from rows(inner.item, f"{key}[]")
