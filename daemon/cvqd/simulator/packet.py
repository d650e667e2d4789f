"""What a device looks at in a frame: addresses and ports for the hash, the transport part for its checksum.

Frames come from a guest or a network, so any bytes can be parsed: a part that
is cut short or unknown counts as absent.
"""

from __future__ import annotations

from typing import Final, NamedTuple

TCP: Final = 6
UDP: Final = 17

_TAGS: Final = (b"\x81\x00", b"\x88\xa8")  # IEEE 802.1Q, 802.1ad
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60  # RFC 8200 §4
_HOME_ADDRESS: Final = 0xC9  # RFC 6275 §6.3
#: tags, extension headers, or options of one that are looked at: a frame has room for thousands of
#: them, a turn of the device for many such frames; MAX_FLOW_DISSECT_HDRS of net/core/flow_dissector.c
_MOST: Final = 15


class Packet(NamedTuple):
    """An IP packet.

    ``protocol`` is TCP or UDP and ``segment`` its header and data; else None and empty, as in fragments.
    ``extended`` says that there are IPv6 extension headers; ``home`` and ``routed`` are the addresses that
    they give in place of ``source`` and ``destination``, by default those two.
    """

    version: int
    source: bytes
    destination: bytes
    protocol: int | None = None
    segment: bytes = b""
    extended: bool = False
    home: bytes = b""
    routed: bytes = b""

    @property
    def ports(self) -> bytes:
        """Source and destination port, 4 bytes."""
        return self.segment[:4]


def parse(frame: bytes) -> Packet | None:
    """The IP packet in an Ethernet frame, after any VLAN tags; None if there is none."""
    at = 12
    while frame[at : at + 2] in _TAGS and at < 12 + 4 * _MOST:
        at += 4
    kind, body = frame[at : at + 2], frame[at + 2 :]
    if kind == b"\x08\x00":
        return _parse_v4(body)
    if kind == b"\x86\xdd":
        return _parse_v6(body)
    return None


def _parse_v4(body: bytes) -> Packet | None:
    if len(body) < 20 or body[0] >> 4 != 4:
        return None
    header, total = 4 * (body[0] & 15), int.from_bytes(body[2:4], "big")
    packet = Packet(4, body[12:16], body[16:20])
    fragment = int.from_bytes(body[6:8], "big") & 0x3FFF
    if header < 20 or total > len(body) or fragment:
        return packet
    return _with_transport(packet, body[9], body[header:total])


def _parse_v6(body: bytes) -> Packet | None:
    if len(body) < 40 or body[0] >> 4 != 6:
        return None
    source, destination = body[8:24], body[24:40]
    home, routed, extended = source, destination, False
    following, rest = body[6], body[40 : 40 + int.from_bytes(body[4:6], "big")]
    whole = len(rest) == int.from_bytes(body[4:6], "big")
    for _ in range(_MOST):
        if following not in (_HOP_BY_HOP, _ROUTING, _DESTINATION, _FRAGMENT) or len(rest) < 8:
            break
        extended = True
        size = 8 if following == _FRAGMENT else 8 * (rest[1] + 1)
        if following == _FRAGMENT and int.from_bytes(rest[2:4], "big") & 0xFFF9:
            whole = False
        elif following == _DESTINATION:
            home = _home_address(rest[2:size]) or home
        elif following == _ROUTING and rest[2] == 2 and size == 24 <= len(rest):
            routed = rest[8:24]
        following, rest = rest[0], rest[size:]
    packet = Packet(6, source, destination, extended=extended, home=home, routed=routed)
    return _with_transport(packet, following, rest) if whole else packet


def _home_address(options: bytes) -> bytes | None:
    at = 0
    for _ in range(_MOST):
        if at >= len(options):
            break
        if options[at] == 0:  # one byte of padding
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if options[at] == _HOME_ADDRESS and length == 16 and at + 18 <= len(options):
            return options[at + 2 : at + 18]
        at += 2 + length
    return None


def _with_transport(packet: Packet, protocol: int, segment: bytes) -> Packet:
    if len(segment) < {TCP: 20, UDP: 8}.get(protocol, len(segment) + 1):
        return packet
    return packet._replace(protocol=protocol, segment=segment)


def checksum_holds(packet: Packet) -> bool | None:
    """Whether the transport checksum is correct; None if there is none to check."""
    if packet.protocol is None:
        return None
    segment = packet.segment
    if packet.protocol == UDP and packet.version == 4 and segment[6:8] == bytes(2):  # RFC 768: not computed
        return None
    # the addresses of the final source and destination, RFC 8200 §8.1, RFC 6275 §11.3.1
    ends = (packet.home, packet.routed) if packet.extended else (packet.source, packet.destination)
    pseudo = b"".join(ends)
    pseudo += len(segment).to_bytes(4, "big") + packet.protocol.to_bytes(4, "big")
    # a ones' complement sum is a remainder modulo 0xffff; RFC 1071 §2
    return int.from_bytes(pseudo + segment + bytes(len(segment) & 1), "big") % 0xFFFF == 0
