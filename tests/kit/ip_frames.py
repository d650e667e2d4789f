"""IP frames made by hand, so that the simulator's parser does not check itself."""

from __future__ import annotations

from ipaddress import ip_address

OWN = bytes.fromhex("525400127601")
PEER = bytes.fromhex("525400ee0001")


def ones_complement(data: bytes) -> int:
    """RFC 1071, the slow way."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip_frame(
    source: str,
    destination: str,
    ports: tuple[int, int] | None = None,
    *,
    udp: bool = False,
    payload: bytes = b"payload",
    extension: bytes = b"",
    extension_type: int = 60,
    fragment: int = 0,
    vlan: bool = False,
    broken: bool = False,
    pseudo: tuple[str, str] | None = None,
) -> bytes:
    """An Ethernet frame to the simulator's default address.

    ``extension`` is an IPv6 extension header without its first byte, ``fragment`` IPv4's flags and
    offset, ``pseudo`` the addresses of the checksum where they are not the header's.
    """
    src, dst = ip_address(source), ip_address(destination)
    protocol, segment = 59 if src.version == 6 else 253, payload
    if ports is not None:
        both = ports[0].to_bytes(2, "big") + ports[1].to_bytes(2, "big")
        if udp:
            protocol = 17
            segment = both + (8 + len(payload)).to_bytes(2, "big") + bytes(2) + payload
        else:
            protocol = 6
            segment = both + bytes(8) + b"\x50\x10" + bytes(2) + bytes(4) + payload
        ends = [ip_address(end).packed for end in pseudo or (source, destination)]
        check = ones_complement(
            b"".join(ends) + len(segment).to_bytes(4, "big") + protocol.to_bytes(4, "big") + segment
        )
        at = 6 if udp else 16
        segment = segment[:at] + (check ^ broken).to_bytes(2, "big") + segment[at + 2 :]
    if src.version == 4:
        head = b"\x45\0" + (20 + len(segment)).to_bytes(2, "big") + bytes(2) + fragment.to_bytes(2, "big")
        body = head + bytes((64, protocol, 0, 0)) + src.packed + dst.packed + segment
        kind = b"\x08\0"
    else:
        rest = bytes((protocol,)) + extension + segment if extension else segment
        following = extension_type if extension else protocol
        head = b"\x60\0\0\0" + len(rest).to_bytes(2, "big") + bytes((following, 64))
        body = head + src.packed + dst.packed + rest
        kind = b"\x86\xdd"
    tag = b"\x81\0\0\x05" if vlan else b""
    return OWN + PEER + tag + kind + body
