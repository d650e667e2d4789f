"""The last answers that were given back on a packed ring, so that a successor can tell whether they arrived.

The used index of a split ring says how far the ring was served.  A packed ring
has no such index: only the device knows where it stands, and a used descriptor
overwrites the first descriptor of the buffer that it answers.  A process that
is killed between these stores leaves a buffer that does not count as answered
and cannot be fetched again either.

So before any descriptor is overwritten, all those that the answers will replace
are noted, with the position of the first.  The flags of the first are stored
last: they say whether the driver saw all of the answers or none.  If none, the
descriptors are put back and the buffers are fetched again.

This is what the inflight region of the vhost-user protocol does for packed
rings (``docs/interop/vhost-user.rst``), where back-ends keep a copy of every
descriptor; here the notes are the daemon's own, so no front-end has to help.
It is done for the control queue only: data rings are served by the device, and
only the front-end could know where one stood when the daemon was killed.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.wire.packed_ring import (
    DESC_AVAILABLE,
    DESC_USED,
    PackedBase,
    PackedDescriptor,
    available_flags,
    used_flags,
)

if TYPE_CHECKING:
    from cvqd.wire.packed_ring import PackedRing

_OWNERSHIP: Final = DESC_AVAILABLE | DESC_USED
_HEAD: Final = struct.Struct("<HI")
_ENTRY: Final = struct.Struct("<QIHHHHI")


class Answered(NamedTuple):
    """A buffer's first descriptor and its descriptor count; ``id`` and ``written`` of the answer to it."""

    descriptor: PackedDescriptor
    descriptors: int
    id: int
    written: int


class PackedAnswers(NamedTuple):
    """Answers that are published together: ring size, position and wrap counter of the first, all answers."""

    num: int
    place: int
    wrap: bool
    answered: tuple[Answered, ...]

    def encode(self) -> bytes:
        """Bytes that ``decode`` takes."""
        base = PackedBase(self.place, self.wrap, self.place, self.wrap).encode()
        entries = (_ENTRY.pack(*answer.descriptor, *answer[1:]) for answer in self.answered)
        return _HEAD.pack(self.num, base) + b"".join(entries)

    @classmethod
    def decode(cls, data: bytes) -> PackedAnswers | None:
        """The answers; None for bytes that ``encode`` cannot have made."""
        if len(data) < _HEAD.size + _ENTRY.size or (len(data) - _HEAD.size) % _ENTRY.size:
            return None
        num, word = _HEAD.unpack_from(data)
        base = PackedBase.decode(word)
        answered = tuple(
            Answered(PackedDescriptor(*fields[:4]), *fields[4:])
            for fields in _ENTRY.iter_unpack(data[_HEAD.size :])
        )
        if base.used >= num or not all(answer.descriptors for answer in answered):
            return None
        if sum(answer.descriptors for answer in answered) > num:
            return None
        return cls(num, base.used, base.used_wrap, answered)


def resume(ring: PackedRing, last: PackedAnswers) -> int | None:
    """Base from which to serve the ring; None if it does not match these answers, so is another ring.

    Descriptors of answers that the driver has not seen are put back.
    """
    if ring.num != last.num:
        return None
    ownership = ring.flags(last.place) & _OWNERSHIP
    # the driver has seen the answers if it has used their position again, in its next lap
    reused = ownership == available_flags(wrap=not last.wrap) and ring.was_round
    if not reused and ring.descriptor(last.place).address != last.answered[0].descriptor.address:
        return None
    if reused or ownership == used_flags(wrap=last.wrap):
        place, wrap = last.place, last.wrap
        for answer in last.answered:
            place, wrap = _onward(place, answer.descriptors, ring.num, wrap=wrap)
        return PackedBase(place, wrap, place, wrap).encode()
    if ownership != available_flags(wrap=last.wrap):
        return None
    place, wrap = last.place, last.wrap
    for answer in last.answered:
        _put_back(ring, place, answer, wrap=wrap)
        place, wrap = _onward(place, answer.descriptors, ring.num, wrap=wrap)
    return PackedBase(last.place, last.wrap, last.place, last.wrap).encode()


def _put_back(ring: PackedRing, place: int, answer: Answered, *, wrap: bool) -> None:
    """Undo as much of an answer as was stored; a descriptor that was not touched stays as it is."""
    was, now = answer.descriptor, ring.descriptor(place)
    if now.address != was.address:
        return
    if (now.id, now.length) == (answer.id, answer.written):
        ring.put_body(place, was.address, was.length, was.id)
    if now.flags & _OWNERSHIP == used_flags(wrap=wrap):
        ring.put_flags(place, was.flags)


def _onward(place: int, count: int, num: int, *, wrap: bool) -> tuple[int, bool]:
    place += count
    return (place - num, not wrap) if place >= num else (place, wrap)
