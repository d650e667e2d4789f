"""Random changes of snapshots at full speed; what becomes of each is counted.

A *case* is one changed snapshot.  Most get a new checksum after the change: the
old one would refuse them all alike, and an attacker would renew it, too.
Cases come in blocks; a block is made from its seed alone.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from cvqd.core.compatibility import usable
from cvqd.core.restore import replay, replay_running
from cvqd.core.state_commands import carried, state_commands
from cvqd.core.tracked import TrackedState
from cvqd.errors import CompatibilityError, SnapshotError
from cvqd.simulator.control import Control
from cvqd.wire.net_control import (
    OK,
    Coalescing,
    CoalTxSet,
    MacTableSet,
    RxMode,
    RxModeSet,
    VlanAdd,
    VqPairsSet,
)
from cvqd.wire.snapshot import RingBase, Snapshot, decode, encode, sealed
from cvqd.wire.virtio import Feature
from kit.snapshot_examples import MAC, RSS, snapshot_of
from owner.test_carried_state import FACTS, OFFER, OFFERED, SPEC

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK: Final = 1000
#: of the header
_SIZE_AT: Final = 12
_HEADER: Final = 16
_SUM: Final = 16

FEATURES: Final = OFFERED & ~Feature.RING_PACKED.mask


def _example(*said: object) -> Snapshot:
    state = TrackedState.after_reset(MAC, FEATURES)
    for command in said:
        state = state.after(command)  # type: ignore[arg-type]
    rings = tuple(RingBase(index, 256, index) for index in range(3))
    return snapshot_of(state, features=FEATURES, config=FACTS.config, rings=rings)


EXAMPLES: Final = [
    encode(snapshot)
    for snapshot in (
        _example(),
        _example(VqPairsSet(4), VlanAdd(5), VlanAdd(4000), RxModeSet(RxMode.NOUNI, 1)),
        _example(RSS, CoalTxSet(Coalescing(1, 2))),
        _example(MacTableSet((MAC, MAC[::-1]), (b"\x33\x33\0\0\0\1",))),
        replace(_example(VlanAdd(1)), announce=False, rings=(RingBase(0, 256, None),)),
    )
]


def reframed(data: bytes | bytearray) -> bytes:
    """A body with the length that it has, and a checksum that fits."""
    body = bytearray(data)
    if len(body) >= _HEADER:
        struct.pack_into("<I", body, _SIZE_AT, len(body) + _SUM)
    return sealed(bytes(body))


def _flip(body: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        body[rng.randrange(len(body))] = rng.choice((0, 1, 2, 0x7F, 0xFF, rng.randrange(256)))


def _cut(body: bytearray, rng: random.Random) -> None:
    at = rng.randrange(_HEADER, len(body))
    del body[at : at + rng.choice((1, 2, 4, 8, len(body)))]


def _insert(body: bytearray, rng: random.Random) -> None:
    at = rng.randrange(_HEADER, len(body) + 1)
    body[at:at] = rng.randbytes(rng.choice((1, 2, 4, 6, 8, 64)))


def _sections(body: bytearray) -> list[bytes]:
    found, at = [], _HEADER
    while at < len(body):
        (length,) = struct.unpack_from("<I", body, at + 4)
        found.append(bytes(body[at : at + 8 + length]))
        at += 8 + length
    return found


def _rearrange(body: bytearray, rng: random.Random) -> None:
    sections = _sections(body)
    match rng.randrange(4):
        case 0:
            del sections[rng.randrange(len(sections))]
        case 1:
            sections.insert(rng.randrange(len(sections)), rng.choice(sections))
        case 2:
            # one of a later version
            content = rng.randbytes(rng.randrange(9))
            kind = rng.choice((0, 7, 8, 0xFFFF))
            sections.append(struct.pack("<HHI", kind, rng.choice((0, 0, 1, 2)), len(content)) + content)
        case _:
            rng.shuffle(sections)
    body[_HEADER:] = b"".join(sections)


def _grow(body: bytearray, rng: random.Random) -> None:
    """Change one length, of a section or in it."""
    at = _HEADER
    for section in _sections(body)[: rng.randrange(6)]:
        at += len(section)
    struct.pack_into("<I", body, at + 4, rng.choice((0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF, rng.randrange(64))))


def _restate(body: bytearray, rng: random.Random) -> None:
    """Commands that nobody sent, with a digest that fits."""
    snapshot = decode(reframed(body))
    commands = list(snapshot.commands)
    for _ in range(rng.randrange(1, 4)):
        value = rng.choice((0, 1, 7, 8, 9, 0xFFFF, rng.randrange(0x10000)))
        commands.append(
            rng.choice(
                (
                    VlanAdd(value),
                    VqPairsSet(value),
                    RxModeSet(rng.choice(list(RxMode)), value & 0xFF),
                    replace(RSS, unclassified=value),
                    replace(RSS, hash_types=value << 8, key=RSS.key[: value & 63]),
                    replace(snapshot.commands[0], mac=rng.randbytes(6)),
                )
            )
        )
    changed = replace(snapshot, commands=tuple(commands), features=snapshot.features ^ 1 << rng.randrange(64))
    try:
        carried(changed)
    except SnapshotError as error:
        # "its commands lead to DIGEST and not to …"
        if error.reason.startswith("its commands lead to "):
            changed = replace(changed, digest=error.reason.split()[4])
    body[:] = encode(changed)[:-_SUM]


CHANGES: Final[tuple[Callable[[bytearray, random.Random], None], ...]] = (
    _flip,
    _flip,
    _cut,
    _insert,
    _rearrange,
    _grow,
    _restate,
)


def run_block(seed: int, block: int) -> Counter[str]:
    """Outcomes of ``BLOCK`` cases: AssertionError, or any other exception, for one that goes wrong."""
    rng = random.Random(f"{seed} {block}")
    outcomes: Counter[str] = Counter()
    for _ in range(BLOCK):
        original = rng.choice(EXAMPLES)
        body = bytearray(original[:-_SUM])
        rng.choice(CHANGES)(body, rng)
        data = reframed(body) if rng.random() < 0.95 else bytes(body) + original[-_SUM:]
        outcomes[_outcome(data, original)] += 1
    return outcomes


def _outcome(data: bytes, original: bytes) -> str:
    try:
        snapshot = decode(data)
    except SnapshotError as error:
        reasons, end = [error.reason], error.offset
    else:
        return _decoded(snapshot, original)
    assert all(reasons)
    assert 0 <= end <= max(len(data), _HEADER)
    return "malformed"


def _decoded(snapshot: Snapshot, original: bytes) -> str:
    # whatever comes out of a decoder goes into the encoder, and is the same again
    assert decode(encode(snapshot)) == snapshot
    try:
        state = usable(snapshot, OFFER, FACTS)
    except SnapshotError:
        return "other digest"
    except CompatibilityError as error:
        reasons = error.shortcomings
    else:
        assert state.digest() == snapshot.digest
        assert carried(replace(snapshot, commands=state_commands(state))) == state
        _replayed(state, snapshot.features)
        return "equal" if snapshot == decode(original) else "another"
    assert reasons
    assert all(reasons)
    return "incompatible"


def _replayed(state: TrackedState, features: int) -> None:
    """What was found usable the device takes, whole."""
    control = Control(SPEC)
    control.negotiated(features)
    for command in (*replay(state, features), *replay_running(state, features)):
        assert control.execute(command.encode()) == OK, command
