"""Control commands of a virtio network device: bytes to values and back, virtio 1.3 §5.1.6.5.

A command is ``class`` u8, ``command`` u8, data.  ``decode`` checks lengths
exactly and nothing else: ``core.policy`` decides whether a value is allowed.
Each value knows its log name, the feature it needs, its bytes, and how many
bytes its answer may have (the ack and what some commands return).

This file has the table of all commands; the commands themselves are in
``control_filter``, ``control_steering``, ``control_offload``,
``control_coalescing`` and ``control_stats``, and are imported from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

from cvqd.errors import GuestError
from cvqd.wire.control_coalescing import Coalescing, CoalRxSet, CoalTxSet, CoalVqGet, CoalVqSet
from cvqd.wire.control_filter import MacAddrSet, MacTableSet, RxMode, RxModeSet, VlanAdd, VlanDel
from cvqd.wire.control_frame import ACK, ERR, OK, Class, expect
from cvqd.wire.control_offload import GUEST_OFFLOADS, GuestOffloadsSet
from cvqd.wire.control_stats import StatsGet, StatsQuery, StatsRequest, StatsType
from cvqd.wire.control_steering import HashConfig, HashType, RssConfig, VqPairsSet
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ACK",
    "COMMANDS",
    "ERR",
    "GUEST_OFFLOADS",
    "NAMES",
    "OK",
    "AnnounceAck",
    "Class",
    "CoalRxSet",
    "CoalTxSet",
    "CoalVqGet",
    "CoalVqSet",
    "Coalescing",
    "Command",
    "GuestOffloadsSet",
    "HashConfig",
    "HashType",
    "MacAddrSet",
    "MacTableSet",
    "RssConfig",
    "RxMode",
    "RxModeSet",
    "StatsGet",
    "StatsQuery",
    "StatsRequest",
    "StatsType",
    "Unknown",
    "VlanAdd",
    "VlanDel",
    "VqPairsSet",
    "decode",
    "name_of",
]


@dataclass(frozen=True, slots=True)
class AnnounceAck:
    """The driver has sent its gratuitous packets, §5.1.6.5.4."""

    name: ClassVar[str] = "announce.ack"
    feature: ClassVar[Feature] = Feature.GUEST_ANNOUNCE
    answer_length: ClassVar[int] = ACK

    def encode(self) -> bytes:
        """Header only."""
        return bytes((Class.ANNOUNCE, 0))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        expect(data, 0, cls.name)
        return cls()


@dataclass(frozen=True, slots=True)
class Unknown:
    """A command that cvqd does not know; it has a value so that logs can name it."""

    class_: int
    command: int

    feature: ClassVar[None] = None
    answer_length: ClassVar[int] = ACK

    @property
    def name(self) -> str:
        """``mq.7`` if the class is known, else ``class_12.1``."""
        try:
            return f"{Class(self.class_).name.lower()}.{self.command}"
        except ValueError:
            return f"class_{self.class_}.{self.command}"

    def encode(self) -> bytes:
        """Header only."""
        return bytes((self.class_, self.command))


Command = (
    RxModeSet
    | MacTableSet
    | MacAddrSet
    | VlanAdd
    | VlanDel
    | AnnounceAck
    | VqPairsSet
    | RssConfig
    | HashConfig
    | GuestOffloadsSet
    | CoalTxSet
    | CoalRxSet
    | CoalVqSet
    | CoalVqGet
    | StatsQuery
    | StatsGet
    | Unknown
)

#: one command of each kind, with the shortest data, in the specification's order
COMMANDS: Final[tuple[Command, ...]] = (
    *(RxModeSet(mode, 0) for mode in RxMode),
    MacTableSet((), ()),
    MacAddrSet(bytes(6)),
    VlanAdd(0),
    VlanDel(0),
    AnnounceAck(),
    VqPairsSet(1),
    RssConfig(0, 0, 0, (0,), 1, b""),
    HashConfig(0, b""),
    GuestOffloadsSet(0),
    CoalTxSet(Coalescing()),
    CoalRxSet(Coalescing()),
    CoalVqSet(0, Coalescing()),
    CoalVqGet(0),
    StatsQuery(),
    StatsGet((StatsRequest(0, 0),)),
)

_PARSERS: Final[dict[bytes, Callable[[bytes], Command]]] = {
    command.encode()[:2]: type(command).parse for command in COMMANDS if not isinstance(command, Unknown)
}

_BY_HEADER: Final = {command.encode()[:2]: command.name for command in COMMANDS}

#: log names of every command that ``decode`` understands
NAMES: Final = tuple(sorted(_BY_HEADER.values()))


def decode(data: bytes) -> Command:
    """The command in a chain's readable bytes.

    GuestError ``command.header`` for fewer than two bytes, and
    ``command.length`` if the data has the wrong length for the command.
    """
    if len(data) < 2:
        raise GuestError("command.header", f"{len(data)} bytes are no header")
    parser = _PARSERS.get(data[:2])
    if parser is None:
        return Unknown(data[0], data[1])
    return parser(data)


def name_of(data: bytes) -> str:
    """Log name of a command with at least a header, even if ``decode`` rejects what follows."""
    return _BY_HEADER.get(data[:2]) or Unknown(data[0], data[1]).name
