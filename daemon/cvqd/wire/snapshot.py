"""A snapshot: a device's state as bytes that can be stored, sent and loaded elsewhere.

Control state is *a replay written down*: the control commands that lead from
reset defaults to it, in the bytes that they have on the control queue, and a
digest of the state that they lead to.  So each parameter has one encoding, the
specification's, and a snapshot is checked by replaying it.

    magic 8 bytes, major u16, minor u16, length of everything u32
    sections, ascending by type:  type u16, flags u16, length u32, body
    blake2b of all that, 16 bytes

Little-endian.  A reader refuses a major version that it does not know.  It
skips an unknown section, unless the section's flag says that it must be
understood.  Nothing here knows a device: ``decode`` guarantees only that the
snapshot is well-formed; ``core.state_commands`` and ``core.compatibility``
check whether it can be used.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cvqd.errors import GuestError, SnapshotError
from cvqd.wire import net_control
from cvqd.wire.net_control import AnnounceAck, CoalVqGet, Command, StatsGet, StatsQuery, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC: Final = b"cvqd\r\n\x1a\0"
MAJOR: Final = 1
MINOR: Final = 0

#: bytes of a snapshot: an address table of the largest ``max_command`` that can be configured, and the rest
MAX_SIZE: Final = 24 << 20
#: commands: all VLANs, the values of every queue, a few more
MAX_COMMANDS: Final = 1 << 17
MAX_CONFIG: Final = 4096
MAX_ORIGIN: Final = 256
MAX_RING_SIZE: Final = 1 << 15

#: flag of a section without which the rest would be misread
MUST: Final = 1

_HEADER: Final = struct.Struct("<8sHHI")
_SECTION: Final = struct.Struct("<HHI")
_SUM: Final = 16
#: features u64, max_pairs u16
_NEGOTIATED: Final = struct.Struct("<QH")
#: announce u8, digest 8 bytes
_STATE: Final = struct.Struct("<B8s")
_LENGTH: Final = struct.Struct("<I")
#: index u16, num u16, 1 if the base is known u8, base u32
_RING: Final = struct.Struct("<HHBI")


class _Section(enum.IntEnum):
    """Section types; all are written and all are required."""

    ORIGIN = 1
    FEATURES = 2
    CONFIG = 3
    CONTROL = 4
    COMMANDS = 5
    RINGS = 6


_KNOWN: Final = frozenset(_Section)

#: commands that set no state; the announce bit is in the CONTROL section
_MOVES_NOTHING: Final = (AnnounceAck, CoalVqGet, StatsGet, StatsQuery, Unknown)


@dataclass(frozen=True, slots=True)
class RingBase:
    """A ring of the guest: the guest's index, size in descriptors, and base as in SET_VRING_BASE.

    ``base`` is None for a ring that was running when the snapshot was taken.
    """

    index: int
    num: int
    base: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a device: well-formed but untrusted.

    ``origin`` names the device for people, ``features`` are the guest's without vhost-user's
    bit 30, ``max_pairs`` the queue pairs that it was offered, ``config`` its configuration space.
    ``commands`` lead from reset defaults to the control state, except for ``announce``, the announce
    bit; ``digest`` is the ``TrackedState.digest`` of that state.  ``rings`` ascend by index.
    """

    origin: str
    features: int
    max_pairs: int
    config: bytes
    commands: tuple[Command, ...]
    announce: bool
    digest: str
    rings: tuple[RingBase, ...] = ()


def encode(snapshot: Snapshot) -> bytes:
    """Bytes of a snapshot; SnapshotError if there are more than ``MAX_SIZE``."""
    bodies = {
        _Section.ORIGIN: snapshot.origin.encode(),
        _Section.FEATURES: _NEGOTIATED.pack(snapshot.features, snapshot.max_pairs),
        _Section.CONFIG: snapshot.config,
        _Section.CONTROL: _STATE.pack(snapshot.announce, bytes.fromhex(snapshot.digest)),
        _Section.COMMANDS: b"".join(
            _LENGTH.pack(len(data)) + data for data in (command.encode() for command in snapshot.commands)
        ),
        _Section.RINGS: b"".join(
            _RING.pack(ring.index, ring.num, ring.base is not None, ring.base or 0) for ring in snapshot.rings
        ),
    }
    sections = b"".join(_SECTION.pack(kind, MUST, len(body)) + body for kind, body in bodies.items())
    size = _HEADER.size + len(sections) + _SUM
    if size > MAX_SIZE:
        raise SnapshotError(f"{size} bytes are more than {MAX_SIZE}", MAX_SIZE)
    return sealed(_HEADER.pack(MAGIC, MAJOR, MINOR, size) + sections)


def sealed(data: bytes) -> bytes:
    """``data``, followed by its checksum."""
    return data + blake2b(data, digest_size=_SUM).digest()


def decode(data: bytes) -> Snapshot:
    """The value that ``encode`` was given; SnapshotError for anything that it cannot have made.

    Unknown sections, of a later minor version, are skipped.
    """
    bodies = _bodies(data)
    for kind in _Section:
        if kind not in bodies:
            raise SnapshotError(f"section {kind:d} is missing", len(data) - _SUM)
    features, max_pairs = _exactly(_NEGOTIATED, bodies[_Section.FEATURES])
    announce, digest = _exactly(_STATE, bodies[_Section.CONTROL])
    if announce > 1:
        raise SnapshotError(f"announce {announce} is neither 0 nor 1", bodies[_Section.CONTROL].at)
    return Snapshot(
        origin=_origin(bodies[_Section.ORIGIN]),
        features=features,
        max_pairs=max_pairs,
        config=_config(bodies[_Section.CONFIG]),
        commands=tuple(_commands(bodies[_Section.COMMANDS])),
        announce=bool(announce),
        digest=digest.hex(),
        rings=tuple(_rings(bodies[_Section.RINGS])),
    )


class _Body(NamedTuple):
    """A section's content, and its offset in the snapshot."""

    data: bytes
    at: int


def _bodies(data: bytes) -> dict[int, _Body]:
    """Every known section, after a check of version, length and checksum."""
    if len(data) < _HEADER.size:
        raise SnapshotError(f"{len(data)} bytes are no header", len(data))
    magic, major, _minor, size = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise SnapshotError("it does not begin like one")
    if major != MAJOR:
        raise SnapshotError(f"version {major}, this cvqd reads {MAJOR}", 8)
    if size > MAX_SIZE:
        raise SnapshotError(f"{size} bytes are more than {MAX_SIZE}", 12)
    if size != len(data) or size < _HEADER.size + _SUM:
        raise SnapshotError(f"{len(data)} bytes where it says {size}", min(size, len(data)))
    end = size - _SUM
    if blake2b(data[:end], digest_size=_SUM).digest() != data[end:]:
        raise SnapshotError("the checksum does not fit", end)
    found: dict[int, _Body] = {}
    at, last = _HEADER.size, 0
    while at < end:
        if end - at < _SECTION.size:
            raise SnapshotError("it ends inside a section's header", at)
        kind, flags, length = _SECTION.unpack_from(data, at)
        if kind <= last:
            raise SnapshotError(f"section {kind} behind section {last}", at)
        if flags & ~MUST:
            raise SnapshotError(f"section {kind} has flags {flags:#x}", at)
        if kind not in _KNOWN and flags & MUST:
            raise SnapshotError(f"section {kind} has to be understood and is not", at)
        at, last = at + _SECTION.size, kind
        if length > end - at:
            raise SnapshotError(f"it ends inside section {kind}", at)
        if kind in _KNOWN:
            found[kind] = _Body(data[at : at + length], at)
        at += length
    return found


def _exactly(layout: struct.Struct, body: _Body) -> tuple[Any, ...]:
    if len(body.data) != layout.size:
        raise SnapshotError(f"{len(body.data)} bytes where {layout.size} belong", body.at)
    return layout.unpack(body.data)


def _origin(body: _Body) -> str:
    if len(body.data) > MAX_ORIGIN:
        raise SnapshotError(f"an origin of {len(body.data)} bytes, {MAX_ORIGIN} are allowed", body.at)
    try:
        text = body.data.decode()
    except UnicodeDecodeError:
        raise SnapshotError("the origin is not UTF-8", body.at) from None
    # it will be shown on terminals
    if not text.isprintable():
        raise SnapshotError("the origin cannot be printed", body.at)
    return text


def _config(body: _Body) -> bytes:
    if len(body.data) > MAX_CONFIG:
        raise SnapshotError(f"{len(body.data)} bytes of configuration, {MAX_CONFIG} are allowed", body.at)
    return body.data


def _commands(body: _Body) -> Iterator[Command]:
    data, at, count = body.data, 0, 0
    while at < len(data):
        where = body.at + at
        if len(data) - at < _LENGTH.size:
            raise SnapshotError("the commands end inside a length", where)
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length > len(data) - at:
            raise SnapshotError("the commands end inside a command", where)
        try:
            command = net_control.decode(data[at : at + length])
        except GuestError as error:
            raise SnapshotError(str(error), where) from None
        if isinstance(command, _MOVES_NOTHING):
            raise SnapshotError(f"{command.name} sets nothing", where)
        at += length
        count += 1
        if count > MAX_COMMANDS:
            raise SnapshotError(f"more than {MAX_COMMANDS} commands", where)
        yield command


def _rings(body: _Body) -> Iterator[RingBase]:
    if len(body.data) % _RING.size:
        raise SnapshotError("the rings end inside a ring", body.at)
    last = -1
    for place, (index, num, known, base) in enumerate(_RING.iter_unpack(body.data)):
        where = body.at + place * _RING.size
        if index <= last:
            raise SnapshotError(f"ring {index} behind ring {last}", where)
        if not 1 <= num <= MAX_RING_SIZE:
            raise SnapshotError(f"ring {index} has {num} descriptors", where)
        if known > 1 or (base and not known):
            raise SnapshotError(f"ring {index} has a base and has none", where)
        last = index
        yield RingBase(index, num, base if known else None)
