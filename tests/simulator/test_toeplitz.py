"""The hash against the vectors that Microsoft publishes with it (*Verifying the RSS Hash Calculation*)."""

from __future__ import annotations

import random

import pytest

from cvqd.simulator.packet import parse
from cvqd.simulator.steering import Hasher
from cvqd.simulator.toeplitz import Toeplitz
from cvqd.wire.net_control import HashType
from kit.ip_frames import ip_frame

KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")

#: destination, its port, source, its port, hash of the addresses, hash with ports
VECTORS = [
    ("161.142.100.80", 1766, "66.9.149.187", 2794, 0x323E8FC2, 0x51CCC178),
    ("65.69.140.83", 4739, "199.92.111.2", 14230, 0xD718262A, 0xC626B0EA),
    ("12.22.207.184", 38024, "24.19.198.95", 12898, 0xD2D0A5DE, 0x5C2B394A),
    ("209.142.163.6", 2217, "38.27.205.30", 48228, 0x82989176, 0xAFC7327F),
    ("202.188.127.2", 1303, "153.39.163.191", 44251, 0x5D1809C5, 0x10E828A2),
    ("3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794, 0x2CC18CD5, 0x40207D3D),
    ("ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230, 0x0F0C461C, 0xDDE51BBF),
    (
        "fe80::200:f8ff:fe21:67cf",
        38024,
        "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
        44251,
        0x4B61E985,
        0x02D1FEEF,
    ),
]


@pytest.mark.parametrize(("destination", "to", "source", "by", "addresses", "whole"), VECTORS)
@pytest.mark.parametrize("udp", [False, True])
def test_frames_have_the_published_hashes(destination, to, source, by, addresses, whole, udp):
    packet = parse(ip_frame(source, destination, (by, to), udp=udp))
    assert packet is not None
    six = packet.version == 6
    plain = HashType.IPV6 if six else HashType.IPV4
    ports = {(0, 0): HashType.TCPV4, (0, 1): HashType.UDPV4, (1, 0): HashType.TCPV6, (1, 1): HashType.UDPV6}
    assert Hasher(plain.mask, KEY).hash(packet) == (addresses, plain)
    kind = ports[six, udp]
    assert Hasher(plain.mask | kind.mask, KEY).hash(packet) == (whole, kind)
    other = ports[six, not udp]
    assert Hasher(plain.mask | other.mask, KEY).hash(packet) == (addresses, plain)
    assert Hasher(other.mask, KEY).hash(packet).kind is None


def bit_by_bit(key: bytes, data: bytes) -> int:
    bits = "".join(f"{byte:08b}" for byte in key) + "0" * 8 * (len(data) + 4)
    value = 0
    for place, bit in enumerate("".join(f"{byte:08b}" for byte in data)):
        if bit == "1":
            value ^= int(bits[place : place + 32], 2)
    return value


def test_keys_of_any_length_hash_as_the_definition_says():
    roll = random.Random(1)
    for _ in range(200):
        key, data = roll.randbytes(roll.randint(1, 60)), roll.randbytes(roll.randint(0, 40))
        assert Toeplitz(key).hash(data) == bit_by_bit(key, data)
