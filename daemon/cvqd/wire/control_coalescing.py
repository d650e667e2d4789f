"""Commands for notification coalescing: how long calls may be held back, virtio 1.3 §5.1.6.5.9."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple, Self

from cvqd.wire.control_frame import ACK, Class, expect
from cvqd.wire.virtio import Feature

#: ``struct virtio_net_ctrl_coal``: max_packets u32, max_usecs u32
_COAL: Final = struct.Struct("<II")
#: vq_index u16, reserved u16
_QUEUE: Final = struct.Struct("<HH")


class Coalescing(NamedTuple):
    """Notify after ``packets`` used or ``usecs`` (µs) since the first of them; if either is 0, at once."""

    packets: int = 0
    usecs: int = 0

    def encode(self) -> bytes:
        """The 8 bytes of ``struct virtio_net_ctrl_coal``."""
        return _COAL.pack(*self)

    @classmethod
    def parse(cls, data: bytes, at: int = 0) -> Self:
        """From 8 bytes of a command or a result."""
        return cls(*_COAL.unpack_from(data, at))


@dataclass(frozen=True, slots=True)
class CoalTxSet:
    """For all transmit queues."""

    values: Coalescing

    name: ClassVar[str] = "notf_coal.tx_set"
    feature: ClassVar[Feature] = Feature.NOTF_COAL
    answer_length: ClassVar[int] = ACK

    def encode(self) -> bytes:
        """Header and two numbers."""
        return bytes((Class.NOTF_COAL, 0)) + self.values.encode()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        expect(data, _COAL.size, cls.name)
        return cls(Coalescing.parse(data, 2))


@dataclass(frozen=True, slots=True)
class CoalRxSet:
    """For all receive queues."""

    values: Coalescing

    name: ClassVar[str] = "notf_coal.rx_set"
    feature: ClassVar[Feature] = Feature.NOTF_COAL
    answer_length: ClassVar[int] = ACK

    def encode(self) -> bytes:
        """Header and two numbers."""
        return bytes((Class.NOTF_COAL, 1)) + self.values.encode()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        expect(data, _COAL.size, cls.name)
        return cls(Coalescing.parse(data, 2))


@dataclass(frozen=True, slots=True)
class CoalVqSet:
    """For one data queue; ``reserved`` (u16) is ignored by the device but kept here as sent."""

    queue: int
    values: Coalescing
    reserved: int = 0

    name: ClassVar[str] = "notf_coal.vq_set"
    feature: ClassVar[Feature] = Feature.VQ_NOTF_COAL
    answer_length: ClassVar[int] = ACK

    def encode(self) -> bytes:
        """Header, queue index and two numbers."""
        return bytes((Class.NOTF_COAL, 2)) + _QUEUE.pack(self.queue, self.reserved) + self.values.encode()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        expect(data, _QUEUE.size + _COAL.size, cls.name)
        queue, reserved = _QUEUE.unpack_from(data, 2)
        return cls(queue, Coalescing.parse(data, 2 + _QUEUE.size), reserved)


@dataclass(frozen=True, slots=True)
class CoalVqGet:
    """Ask for one data queue's values; the result is a ``Coalescing``."""

    queue: int
    reserved: int = 0

    name: ClassVar[str] = "notf_coal.vq_get"
    feature: ClassVar[Feature] = Feature.VQ_NOTF_COAL
    answer_length: ClassVar[int] = ACK + _COAL.size

    def encode(self) -> bytes:
        """Header and queue index."""
        return bytes((Class.NOTF_COAL, 3)) + _QUEUE.pack(self.queue, self.reserved)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a command with this header."""
        expect(data, _QUEUE.size, cls.name)
        return cls(*_QUEUE.unpack_from(data, 2))
