"""The keys of the site's policy: ``core.site_policy`` as an operator writes it.

A word covers the usual cases (``allowed``, ``refused``, ``all``, ``none``), a
list says exactly what; an empty list is refused, because it looks like a mistake
and there is a word for what it would mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml

from cvqd.config import scalars
from cvqd.config.fields import DEFAULTS, INVALID, Field, ListOf, Scalar, Section
from cvqd.core.site_policy import ANY_MAC, MacRule, MacTableRule, SitePolicy
from cvqd.wire.net_config import MAC

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cvqd.config.fields import Reader

#: more queue pairs than virtio knows, virtio 1.3 §5.1.5.1
_MAX_PAIRS: Final = 0x8000

#: IEEE 802.1Q: 0 is no VLAN and 4095 is reserved
_LAST_VLAN: Final = 4094

_MAC_OR_PREFIX: Final = rf"(?:(?:[0-9A-Fa-f]{{2}}:){{1,5}}\*|{MAC})"
_VLANS_FROM_TO: Final = r"([0-9]{1,4})(?:\s*-\s*([0-9]{1,4}))?"


@dataclass(frozen=True, slots=True)
class WordOrList:
    """A word with a meaning or a list; ``build`` makes the value of the list's items."""

    words: Mapping[str, Any]
    items: ListOf
    build: Callable[[tuple[Any, ...]], Any]
    #: word for what an empty list would mean
    empty: str

    @property
    def shown(self) -> str:
        """Type as the manual says it."""
        return f"{', '.join(f'`{word}`' for word in self.words)} or {self.items.shown}"

    def read(self, reader: Reader, node: yaml.Node, key: str) -> Any:
        """The word's meaning, the built value, or INVALID."""
        if not isinstance(node, yaml.SequenceNode):
            return Scalar(self.shown, self._word).read(reader, node, key)
        values = self.items.read(reader, node, key)
        if values == ():
            return reader.at(node, key, f"an empty list; write {self.empty}")
        return INVALID if values is INVALID else self.build(values)

    def _word(self, text: str) -> Any:
        try:
            return self.words[scalars.choice(*self.words).convert(text)]
        except ValueError as error:
            if self._is_item(text):
                raise ValueError(f"{error}; a list of one is written [{text}]") from None
            raise

    def _is_item(self, text: str) -> bool:
        assert isinstance(self.items.item, Scalar)
        try:
            self.items.item.convert(text)
        except ValueError:
            return False
        return True


def mac_prefix() -> Scalar:
    """An address, or its first bytes and ``*``, as 1 to 6 bytes."""

    def convert(text: str) -> bytes:
        if not re.fullmatch(_MAC_OR_PREFIX, text):
            raise ValueError(f"{text[:48]!a} is neither an address nor a prefix such as 52:54:00:*")
        value = bytes.fromhex(text.rstrip("*").replace(":", ""))
        if value[0] & 1 or value == bytes(6):
            raise ValueError(f"{text} is not a station's address: it must be unicast and not zero")
        return value

    return Scalar("MAC address or prefix", convert, scalars.word(scalars.UNICAST + _MAC_OR_PREFIX))


def vlan_range() -> Scalar:
    """One VLAN id or ``first-last``, as a range object."""

    def convert(text: str) -> range:
        match = re.fullmatch(_VLANS_FROM_TO, text, re.ASCII)
        if match is None:
            raise ValueError(f"{text[:48]!a} is neither a VLAN id nor a range such as 100-199")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= _LAST_VLAN or not 1 <= last <= _LAST_VLAN:
            raise ValueError(f"{text} is not between 1 and 4094")
        if last < first:
            raise ValueError(f"{text} ends before it begins")
        return range(first, last + 1)

    pattern = scalars.whole(_VLANS_FROM_TO)
    schema = {"type": ["integer", "string"], "minimum": 1, "maximum": _LAST_VLAN, "pattern": pattern}
    return Scalar("VLAN id or range", convert, schema)


def _permission() -> Scalar:
    word = scalars.choice("allowed", "refused")
    return Scalar(word.shown, lambda text: word.convert(text) == "allowed", word.schema)


_CHANGE: Final = WordOrList(
    {"allowed": ANY_MAC, "refused": ()}, ListOf(mac_prefix(), "MAC addresses or prefixes"), tuple, "refused"
)
_VLANS: Final = WordOrList(
    {"all": None, "none": frozenset()},
    ListOf(vlan_range(), "VLAN ids or ranges"),
    lambda ranges: frozenset().union(*ranges),
    "none",
)
#: table entries fit into the longest command that can be configured
_ENTRIES: Final = scalars.integer(0, 1_000_000)

POLICY: Final = Section(
    "policy",
    (
        Field(
            "mac",
            Section(
                "mac",
                (
                    Field(
                        "change",
                        _CHANGE,
                        ANY_MAC,
                        "addresses the guest may take as its own; the one it began with it always may",
                        "allowed",
                    ),
                ),
                MacRule,
            ),
            DEFAULTS,
            "",
        ),
        Field(
            "promiscuous",
            _permission(),
            default=True,
            doc="frames for others, all unicast included; a promiscuous device lets in every group and VLAN",
            shown_default="allowed",
        ),
        Field(
            "all_multicast",
            _permission(),
            default=True,
            doc="frames for every group",
            shown_default="allowed",
        ),
        Field("vlans", _VLANS, None, "VLANs the guest may let in", "all"),
        Field(
            "mac_table",
            Section(
                "mac_table",
                (
                    Field(
                        "unicast",
                        _ENTRIES,
                        None,
                        "most further addresses the guest may receive for",
                        "no limit",
                    ),
                    Field(
                        "multicast", _ENTRIES, None, "most multicast addresses it may receive for", "no limit"
                    ),
                ),
                MacTableRule,
            ),
            DEFAULTS,
            "",
        ),
        Field("pairs", scalars.integer(1, _MAX_PAIRS), None, "most queue pairs it may use", "the device's"),
    ),
    SitePolicy,
)
