"""The Toeplitz hash of receive-side scaling.

For each input bit that is set, the 32 key bits from its position on are XORed
into the hash.  Microsoft's driver documentation publishes it with test vectors,
as *Verifying the RSS Hash Calculation*; virtio 1.3 §5.1.6.4.3 says which fields
of a packet are the input.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

#: flows whose hash is remembered
_FLOWS: Final = 4096


class Toeplitz:
    """Hashes with one key; a key that is too short for its input is extended with zero bits."""

    def __init__(self, key: bytes) -> None:
        self._bits = 8 * len(key)
        self._key = int.from_bytes(key, "big")
        self.hash: Final = lru_cache(_FLOWS)(self._hash)

    def _hash(self, data: bytes) -> int:
        """32-bit hash of ``data``."""
        length = 8 * len(data)
        # the window for the first bit is at the top of the key and moves down bit by bit
        room = max(self._bits, length + 32)
        key = self._key << (room - self._bits)
        left = int.from_bytes(data, "big")
        value = 0
        while left:
            lowest = left & -left
            position = length - lowest.bit_length()
            value ^= key >> (room - 32 - position)
            left ^= lowest
        return value & 0xFFFF_FFFF
