from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvqd.simulator.packet import TCP, UDP, checksum_holds, parse
from cvqd.simulator.steering import Hasher
from cvqd.simulator.toeplitz import Toeplitz
from cvqd.wire.net_control import HashType
from kit.ip_frames import ip_frame

FOUR = ("10.0.0.1", "10.0.0.2")
SIX = ("fd00::1", "fd00::2")
HOME, ROUTED = "fd00::aa", "fd00::bb"
KEY = bytes(range(40))
#: destination options: home address, RFC 6275 §6.3, padded to 24 bytes
HOME_OPTION = b"\x02" + b"\x01\x02\0\0" + b"\xc9\x10" + ip_address(HOME).packed
#: routing header of type 2, RFC 6275 §6.4
ROUTING = b"\x02\x02\x01" + bytes(4) + ip_address(ROUTED).packed


@pytest.mark.parametrize("vlan", [False, True])
@pytest.mark.parametrize("ends", [FOUR, SIX])
@pytest.mark.parametrize("udp", [False, True])
def test_addresses_ports_and_checksum_are_found(ends, udp, vlan):
    packet = parse(ip_frame(*ends, (1, 515), udp=udp, vlan=vlan))
    assert packet.source == ip_address(ends[0]).packed
    assert packet.destination == ip_address(ends[1]).packed
    assert packet.protocol == (UDP if udp else TCP)
    assert packet.ports == b"\0\1\2\3"
    assert checksum_holds(packet) is True
    assert checksum_holds(parse(ip_frame(*ends, (1, 515), udp=udp, broken=True))) is False


def test_padding_behind_a_packet_is_not_the_packets():
    frame = ip_frame(*FOUR, (1, 2), payload=b"odd")
    assert checksum_holds(parse(frame + b"pad")) is True


def test_what_has_no_transport_header_has_no_ports_and_no_checksum():
    for frame in (
        ip_frame(*FOUR),
        ip_frame(*SIX),
        ip_frame(*FOUR, (1, 2), fragment=0x2000),  # more fragments
        ip_frame(*FOUR, (1, 2), fragment=5),
        ip_frame(*SIX, (1, 2), extension=b"\0\0\x09" + bytes(4), extension_type=44),
        ip_frame(*FOUR, (1, 2))[:-1],
        ip_frame(*SIX, (1, 2))[:-1],
    ):
        packet = parse(frame)
        assert packet is not None
        assert packet.protocol is None
        assert checksum_holds(packet) is None


def test_a_udp_datagram_without_a_checksum_has_none():
    frame = bytearray(ip_frame(*FOUR, (1, 2), udp=True))
    frame[14 + 20 + 6 : 14 + 20 + 8] = bytes(2)
    assert checksum_holds(parse(bytes(frame))) is None


def test_other_protocols_are_no_packet():
    assert parse(b"\xff" * 12 + b"\x08\x06" + bytes(28)) is None
    assert parse(b"") is None


@pytest.mark.parametrize(
    ("extension", "kind", "ends"),
    [
        (HOME_OPTION, 60, (HOME, SIX[1])),
        (ROUTING, 43, (SIX[0], ROUTED)),
        (b"\0" + b"\x01\x04" + bytes(4), 0, SIX),  # hop-by-hop: nothing to see
    ],
)
def test_ipv6_extension_headers_give_the_addresses_that_are_hashed(extension, kind, ends):
    # §5.1.6.4.3.4, in its order: TCP_EX, UDP_EX, IP_EX, else as without extension headers
    frame = ip_frame(*SIX, (7, 9), extension=extension, extension_type=kind, pseudo=ends)
    packet = parse(frame)
    assert packet.extended
    assert checksum_holds(packet) is True
    addresses = ip_address(ends[0]).packed + ip_address(ends[1]).packed
    plain = ip_address(SIX[0]).packed + ip_address(SIX[1]).packed
    toeplitz = Toeplitz(KEY).hash
    every = sum(kind.mask for kind in HashType)
    left = every
    for expected, data in [
        (HashType.TCP_EX, addresses + packet.ports),
        (HashType.IP_EX, addresses),
        (HashType.TCPV6, plain + packet.ports),
        (HashType.IPV6, plain),
    ]:
        assert Hasher(left, KEY).hash(packet) == (toeplitz(data), expected)
        left &= ~expected.mask
    assert Hasher(left, KEY).hash(packet).kind is None


def test_so_many_headers_and_options_are_looked_at_and_no_more():
    def padded(options: int) -> bytes:
        padding = bytes(6) + b"\x01\0" * (options - 7)
        home = b"\xc9\x10" + ip_address(HOME).packed
        length = (8 + len(padding) + len(home) - 2 + 7) // 8 - 1
        return ip_frame(
            *SIX, (1, 2), extension=bytes((length,)) + (padding + home).ljust(8 * length + 6, b"\0")
        )

    def extended(count: int) -> bytes:
        whole = ip_frame(*SIX, (1, 2))
        padding = b"\0\x01\x04" + bytes(4)
        headers = (b"\x3c" + padding) * (count - 1) + b"\x06" + padding
        rest = headers + whole[54:]
        return whole[:18] + len(rest).to_bytes(2, "big") + b"\x3c" + whole[21:54] + rest

    def tagged(count: int) -> bytes:
        return bytes(12) + b"\x81\0\0\1" * count + ip_frame(*FOUR, (1, 2))[12:]

    assert parse(extended(15)).protocol == parse(tagged(15)).protocol == TCP
    assert parse(extended(16)).protocol is None
    assert parse(tagged(16)) is None
    assert parse(padded(15)).home == ip_address(HOME).packed
    assert parse(padded(16)).home == ip_address(SIX[0]).packed


def test_ex_types_are_not_for_packets_without_extension_headers():
    packet = parse(ip_frame(*SIX, (1, 2)))
    assert Hasher(HashType.TCP_EX.mask | HashType.IP_EX.mask, KEY).hash(packet).kind is None


@given(st.sampled_from([b"\x08\0", b"\x86\xdd", b"\x81\0"]), st.binary(max_size=120))
def test_any_bytes_are_read_without_harm(kind, body):
    packet = parse(bytes(12) + kind + body)
    if packet is not None:
        checksum_holds(packet)
        Hasher(0x1FF, KEY).hash(packet)


@given(st.binary(max_size=80), st.sampled_from([0, 43, 44, 60]), st.integers(0, 90))
def test_any_extension_headers_are_read_without_harm(rest, following, length):
    head = b"\x60\0\0\0" + length.to_bytes(2, "big") + bytes((following, 64)) + bytes(32)
    packet = parse(bytes(12) + b"\x86\xdd" + head + rest)
    assert packet is not None
    Hasher(0x1FF, KEY).hash(packet)
