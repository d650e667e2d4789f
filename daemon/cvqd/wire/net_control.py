"""Control commands of a virtio network device: bytes to values and back, virtio 1.3 §5.1.6.5.

A command is ``class`` u8, ``command`` u8, data.  ``decode`` checks lengths
exactly and nothing else: whether a value is allowed is for ``core.policy`` to
say.  Each value knows its log name, the feature it needs and its bytes.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from cvqd.errors import GuestError
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

OK: Final = 0
ERR: Final = 1

_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")


class Class(enum.IntEnum):
    """Command classes; cvqd's log names are these in lower case."""

    RX = 0
    MAC = 1
    VLAN = 2
    ANNOUNCE = 3
    MQ = 4
    GUEST_OFFLOADS = 5
    NOTF_COAL = 6
    HASH_TUNNEL = 7
    STATS = 8
    RSS_CTX = 9


class RxMode(enum.IntEnum):
    """Receive modes, §5.1.6.5.1; the number is the command."""

    PROMISC = 0
    ALLMULTI = 1
    ALLUNI = 2
    NOMULTI = 3
    NOUNI = 4
    NOBCAST = 5


@dataclass(frozen=True, slots=True)
class RxModeSet:
    """Switch a receive mode; ``on`` is the byte as sent, of which only 0 and 1 are defined."""

    mode: RxMode
    on: int

    @property
    def name(self) -> str:
        """``rx.promisc`` and so on."""
        return f"rx.{self.mode.name.lower()}"

    @property
    def feature(self) -> Feature:
        """CTRL_RX for the first two modes, CTRL_RX_EXTRA for the rest."""
        return Feature.CTRL_RX if self.mode <= RxMode.ALLMULTI else Feature.CTRL_RX_EXTRA

    def encode(self) -> bytes:
        """Header and one byte."""
        return bytes((Class.RX, self.mode, self.on))


@dataclass(frozen=True, slots=True)
class MacTableSet:
    """Replace both filter tables, §5.1.6.5.2; every entry has 6 bytes."""

    unicast: tuple[bytes, ...]
    multicast: tuple[bytes, ...]

    name: ClassVar[str] = "mac.table_set"
    feature: ClassVar[Feature] = Feature.CTRL_RX

    def encode(self) -> bytes:
        """Header and two counted lists."""
        parts = [bytes((Class.MAC, 0))]
        for table in (self.unicast, self.multicast):
            parts.append(_U32.pack(len(table)))
            parts.extend(table)
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class MacAddrSet:
    """Set the device's own address (6 bytes), §5.1.6.5.2."""

    mac: bytes

    name: ClassVar[str] = "mac.addr_set"
    feature: ClassVar[Feature] = Feature.CTRL_MAC_ADDR

    def encode(self) -> bytes:
        """Header and address."""
        return bytes((Class.MAC, 1)) + self.mac


@dataclass(frozen=True, slots=True)
class VlanAdd:
    """Let a VLAN through, §5.1.6.5.3."""

    vid: int

    name: ClassVar[str] = "vlan.add"
    feature: ClassVar[Feature] = Feature.CTRL_VLAN

    def encode(self) -> bytes:
        """Header and id."""
        return bytes((Class.VLAN, 0)) + _U16.pack(self.vid)


@dataclass(frozen=True, slots=True)
class VlanDel:
    """Stop a VLAN, §5.1.6.5.3."""

    vid: int

    name: ClassVar[str] = "vlan.del"
    feature: ClassVar[Feature] = Feature.CTRL_VLAN

    def encode(self) -> bytes:
        """Header and id."""
        return bytes((Class.VLAN, 1)) + _U16.pack(self.vid)


@dataclass(frozen=True, slots=True)
class AnnounceAck:
    """The driver has sent its gratuitous packets, §5.1.6.5.4."""

    name: ClassVar[str] = "announce.ack"
    feature: ClassVar[Feature] = Feature.GUEST_ANNOUNCE

    def encode(self) -> bytes:
        """Header only."""
        return bytes((Class.ANNOUNCE, 0))


@dataclass(frozen=True, slots=True)
class VqPairsSet:
    """Use this many queue pairs with automatic steering, §5.1.6.5.5."""

    pairs: int

    name: ClassVar[str] = "mq.vq_pairs_set"
    feature: ClassVar[Feature] = Feature.MQ

    def encode(self) -> bytes:
        """Header and count."""
        return bytes((Class.MQ, 0)) + _U16.pack(self.pairs)


@dataclass(frozen=True, slots=True)
class Unknown:
    """A command that cvqd does not serve; kept so that it can be named."""

    class_: int
    command: int

    feature: ClassVar[None] = None

    @property
    def name(self) -> str:
        """``mq.1`` where the class is known, else ``class_12.1``."""
        try:
            return f"{Class(self.class_).name.lower()}.{self.command}"
        except ValueError:
            return f"class_{self.class_}.{self.command}"

    def encode(self) -> bytes:
        """Header only."""
        return bytes((self.class_, self.command))


Command = RxModeSet | MacTableSet | MacAddrSet | VlanAdd | VlanDel | AnnounceAck | VqPairsSet | Unknown


def decode(data: bytes) -> Command:
    """Value of a command's readable bytes.

    GuestError ``command.header`` for fewer than two bytes and
    ``command.length`` where the data is not exactly as long as the command says.
    """
    if len(data) < 2:
        raise GuestError("command.header", f"{len(data)} bytes are no header")
    decoder = _DECODERS.get((data[0], data[1]))
    if decoder is None:
        return Unknown(data[0], data[1])
    return decoder(data)


def _expect(data: bytes, length: int, name: str) -> None:
    if len(data) != 2 + length:
        raise GuestError("command.length", f"{name} takes {length} bytes, not {len(data) - 2}")


def _rx(data: bytes) -> Command:
    mode = RxMode(data[1])
    _expect(data, 1, f"rx.{mode.name.lower()}")
    return RxModeSet(mode, data[2])


def _mac_table(data: bytes) -> Command:
    unicast, at = _mac_list(data, 2)
    multicast, end = _mac_list(data, at)
    if end != len(data):
        raise GuestError("command.length", f"mac.table_set has {len(data) - end} bytes behind its lists")
    return MacTableSet(unicast, multicast)


def _mac_list(data: bytes, at: int) -> tuple[tuple[bytes, ...], int]:
    if len(data) < at + 4:
        raise GuestError("command.length", "mac.table_set ends inside a count")
    (count,) = _U32.unpack_from(data, at)
    start, end = at + 4, at + 4 + 6 * count
    if end > len(data):
        raise GuestError("command.length", f"mac.table_set ends inside a list of {count}")
    return tuple(data[entry : entry + 6] for entry in range(start, end, 6)), end


def _mac_addr(data: bytes) -> Command:
    _expect(data, 6, MacAddrSet.name)
    return MacAddrSet(data[2:])


def _vlan_add(data: bytes) -> Command:
    _expect(data, 2, VlanAdd.name)
    return VlanAdd(_U16.unpack_from(data, 2)[0])


def _vlan_del(data: bytes) -> Command:
    _expect(data, 2, VlanDel.name)
    return VlanDel(_U16.unpack_from(data, 2)[0])


def _announce_ack(data: bytes) -> Command:
    _expect(data, 0, AnnounceAck.name)
    return AnnounceAck()


def _vq_pairs(data: bytes) -> Command:
    _expect(data, 2, VqPairsSet.name)
    return VqPairsSet(_U16.unpack_from(data, 2)[0])


_DECODERS: Final[dict[tuple[int, int], Callable[[bytes], Command]]] = {
    **{(Class.RX, mode): _rx for mode in RxMode},
    (Class.MAC, 0): _mac_table,
    (Class.MAC, 1): _mac_addr,
    (Class.VLAN, 0): _vlan_add,
    (Class.VLAN, 1): _vlan_del,
    (Class.ANNOUNCE, 0): _announce_ack,
    (Class.MQ, 0): _vq_pairs,
}

_BY_HEADER: Final = {
    command.encode()[:2]: command.name
    for command in (
        *(RxModeSet(mode, 0) for mode in RxMode),
        MacTableSet((), ()),
        MacAddrSet(bytes(6)),
        VlanAdd(0),
        VlanDel(0),
        AnnounceAck(),
        VqPairsSet(1),
    )
}

#: log names of every command that ``decode`` understands
NAMES: Final = tuple(sorted(_BY_HEADER.values()))


def name_of(data: bytes) -> str:
    """Log name of a command with at least a header, also where ``decode`` objects to what follows."""
    return _BY_HEADER.get(data[:2]) or Unknown(data[0], data[1]).name
