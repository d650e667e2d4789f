"""JSON Schema of the configuration (draft 2020-12), for editors.

It refuses less than ``check-config``: it cannot check ranges of values with a
unit, paths with ``..`` or what two keys must agree on.  It refuses nothing
valid, as long as numbers are written without quotes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from cvqd import config
from cvqd.config.fields import DEFAULTS, REQUIRED, Field, ListOf, MapOf, Scalar, Section, Union
from cvqd.config.policy import WordOrList
from cvqd.manual.written import default_text, written_default

if TYPE_CHECKING:
    from cvqd.config.fields import Type

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def text() -> str:
    """The schema as a file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def schema() -> Schema:
    """The schema of a file."""
    unions = _Unions()
    whole = unions.section(config.FILE)
    return {
        "$schema": DIALECT,
        "title": "cvqd instance",
        "description": "One vhost-vdpa network device and how cvqd serves it; see cvqd.yaml(5).",
        **whole,
        "$defs": unions.definitions,
    }


class _Unions:
    """Collects each union once, under the key where it is first used."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}
        self._names: dict[int, str] = {}

    def section(self, section: Section, tag: str | None = None) -> Schema:
        """A mapping with known keys; ``tag`` is the value of ``kind`` that leads to it."""
        required = [entry.key for entry in section.fields if entry.default is REQUIRED]
        properties = {entry.key: self._field(entry) for entry in section.fields}
        found: Schema = {
            # a section whose keys are all commented out is null
            "type": "object" if required or tag else ["object", "null"],
            "properties": {"kind": {"const": tag}, **properties} if tag else properties,
            "additionalProperties": False,
        }
        if required:
            found["required"] = required
        if section.exactly_one:
            found["oneOf"] = [{"required": [key]} for key in section.exactly_one]
        return found

    def _field(self, entry: Field) -> Schema:
        found = self._type(entry.type, entry.key)
        if entry.default is DEFAULTS:
            return found | ({"description": entry.doc} if entry.doc else {})
        found["description"] = f"{entry.doc} ({entry.type.shown}; {default_text(entry)})"
        default = written_default(entry)
        # an editor could not insert one with the instance's name in it
        if default is not None and "{instance}" not in str(default[0]):
            found["default"] = default[0]
        return found

    def _type(self, kind: Type, key: str) -> Schema:
        match kind:
            case Scalar():
                return dict(kind.schema)
            case Section():
                return self.section(kind)
            case Union():
                return self._union(kind, key)
            case ListOf():
                return {"type": "array", "items": self._type(kind.item, key)}
            case MapOf():
                items = self._type(kind.item, key)
                return {
                    "type": ["object", "null"],
                    "propertyNames": dict(kind.name.schema),
                    "additionalProperties": items,
                }
            case WordOrList():
                items = self._type(kind.items, key)
                return {"anyOf": [{"enum": list(kind.words)}, items | {"minItems": 1}]}
            case _:
                raise TypeError(f"{type(kind).__name__} has no schema yet")

    def _union(self, union: Union, key: str) -> Schema:
        name = self._names.get(id(union))
        if name is None:
            name = self._names[id(union)] = key
            assert name not in self.definitions, f"two unions are first used as {name}"
            self.definitions[name] = {
                "type": "object",
                "required": ["kind"],
                "properties": {"kind": {"enum": list(union.variants)}},
                "allOf": [
                    {
                        "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                        "then": {"description": variant.shown, **self.section(variant, kind)},
                    }
                    for kind, variant in union.variants.items()
                ],
            }
        return {"$ref": f"#/$defs/{name}"}
