"""Hashes of packets, and steering by them: virtio 1.3 §5.1.6.4.3 and §5.1.6.5.7.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.simulator.packet import TCP, UDP
from cvqd.simulator.toeplitz import Toeplitz
from cvqd.wire.net_control import HashType

if TYPE_CHECKING:
    from cvqd.simulator.packet import Packet
    from cvqd.wire.net_control import RssConfig

#: types in the order in which they are tried, by version of IP and presence of extension headers
_ORDER: Final = {
    (4, False): (HashType.TCPV4, HashType.UDPV4, HashType.IPV4),
    (6, False): (HashType.TCPV6, HashType.UDPV6, HashType.IPV6),
    (6, True): (
        HashType.TCP_EX,
        HashType.UDP_EX,
        HashType.IP_EX,
        HashType.TCPV6,
        HashType.UDPV6,
        HashType.IPV6,
    ),
}
_PROTOCOL: Final = {
    HashType.TCPV4: TCP,
    HashType.TCPV6: TCP,
    HashType.TCP_EX: TCP,
    HashType.UDPV4: UDP,
    HashType.UDPV6: UDP,
    HashType.UDP_EX: UDP,
}
_EXTENDED: Final = (HashType.IP_EX, HashType.TCP_EX, HashType.UDP_EX)


class PacketHash(NamedTuple):
    """Hash value and type; ``kind`` is None if no hash was calculated."""

    value: int = 0
    kind: HashType | None = None

    @property
    def report(self) -> int:
        """Code for the packet header, §5.1.6.4.4: the type's bit number plus one."""
        return 0 if self.kind is None else self.kind + 1


NO_HASH: Final = PacketHash()


class Hasher:
    """Hashes packets of the enabled types with a key."""

    def __init__(self, types: int, key: bytes) -> None:
        self._types = types
        self._toeplitz = Toeplitz(key)

    def hash(self, packet: Packet | None) -> PacketHash:
        """Hash by the first enabled type that applies to the packet."""
        if packet is None or not self._types:
            return NO_HASH
        for kind in _ORDER[packet.version, packet.extended]:
            if self._types & kind.mask and _PROTOCOL.get(kind, packet.protocol) == packet.protocol:
                return PacketHash(self._toeplitz.hash(_input(packet, kind)), kind)
        return NO_HASH


def _input(packet: Packet, kind: HashType) -> bytes:
    addresses = packet.source + packet.destination
    if kind in _EXTENDED:
        addresses = packet.home + packet.routed
    return addresses + packet.ports if kind in _PROTOCOL else addresses


def receive_pair(config: RssConfig, found: PacketHash) -> int:
    """Receive pair of a packet with this hash."""
    return config.unclassified if found.kind is None else config.table[found.value & config.mask]
