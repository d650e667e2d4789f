"""Commands for receive filtering: modes, address tables, MAC address, VLANs; virtio 1.3 §5.1.6.5.1 to .3."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar, Self

from cvqd.errors import GuestError
from cvqd.wire.control_frame import ACK, U16, U32, Class, expect
from cvqd.wire.virtio import Feature


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

    answer_length: ClassVar[int] = ACK

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

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command of class RX."""
        mode = RxMode(data[1])
        expect(data, 1, f"rx.{mode.name.lower()}")
        return cls(mode, data[2])


@dataclass(frozen=True, slots=True)
class MacTableSet:
    """Replace both filter tables, §5.1.6.5.2; every entry has 6 bytes."""

    unicast: tuple[bytes, ...]
    multicast: tuple[bytes, ...]

    name: ClassVar[str] = "mac.table_set"
    feature: ClassVar[Feature] = Feature.CTRL_RX
    answer_length: ClassVar[int] = ACK

    def encode(self) -> bytes:
        """Header and two counted lists."""
        parts = [bytes((Class.MAC, 0))]
        for table in (self.unicast, self.multicast):
            parts.append(U32.pack(len(table)))
            parts.extend(table)
        return b"".join(parts)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        unicast, at = _mac_list(data, 2)
        multicast, end = _mac_list(data, at)
        if end != len(data):
            raise GuestError("command.length", f"mac.table_set has {len(data) - end} bytes behind its lists")
        return cls(unicast, multicast)


def _mac_list(data: bytes, at: int) -> tuple[tuple[bytes, ...], int]:
    if len(data) < at + 4:
        raise GuestError("command.length", "mac.table_set ends inside a count")
    (count,) = U32.unpack_from(data, at)
    start, end = at + 4, at + 4 + 6 * count
    if end > len(data):
        raise GuestError("command.length", f"mac.table_set ends inside a list of {count}")
    return tuple(data[entry : entry + 6] for entry in range(start, end, 6)), end


@dataclass(frozen=True, slots=True)
class MacAddrSet:
    """Set the device's own address (6 bytes), §5.1.6.5.2."""

    mac: bytes

    name: ClassVar[str] = "mac.addr_set"
    feature: ClassVar[Feature] = Feature.CTRL_MAC_ADDR
    answer_length: ClassVar[int] = ACK

    def encode(self) -> bytes:
        """Header and address."""
        return bytes((Class.MAC, 1)) + self.mac

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        expect(data, 6, cls.name)
        return cls(data[2:])


@dataclass(frozen=True, slots=True)
class VlanAdd:
    """Let a VLAN through, §5.1.6.5.3."""

    vid: int

    name: ClassVar[str] = "vlan.add"
    feature: ClassVar[Feature] = Feature.CTRL_VLAN
    answer_length: ClassVar[int] = ACK

    def encode(self) -> bytes:
        """Header and id."""
        return bytes((Class.VLAN, 0)) + U16.pack(self.vid)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        expect(data, 2, cls.name)
        return cls(U16.unpack_from(data, 2)[0])


@dataclass(frozen=True, slots=True)
class VlanDel:
    """Stop a VLAN, §5.1.6.5.3."""

    vid: int

    name: ClassVar[str] = "vlan.del"
    feature: ClassVar[Feature] = Feature.CTRL_VLAN
    answer_length: ClassVar[int] = ACK

    def encode(self) -> bytes:
        """Header and id."""
        return bytes((Class.VLAN, 1)) + U16.pack(self.vid)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        expect(data, 2, cls.name)
        return cls(U16.unpack_from(data, 2)[0])
