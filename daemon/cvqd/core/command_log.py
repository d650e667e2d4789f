"""Commands appended to a state log in memory.

``append`` prepares a record, ``commit`` makes it count with one store of the
tail, ``rewrite`` writes a shorter log of the same state into the other half and
switches to it with one store of the generation.  A reader of the memory finds a
whole log, the older or the newer one, between any two of these steps.  The
process may be killed at any of them: the memory belongs to a file and stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.wire.state_log import (
    HALF_HEADER,
    NOTES,
    Kind,
    LogError,
    Scan,
    encode_note,
    encode_record,
    generation_and_tail,
    half_at,
    last_note,
    scan,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvqd.wire.state_log import Record

#: more rewrites than any process can make
_MOST = 1 << 62
#: positions of the two words of a half
_GENERATION, _TAIL = 0, 1


class CommandLog:
    """A log with a sound header in ``memory``; nobody else writes there.

    x86-64 keeps stores in order, and a kill does not change that: a later process finds what was
    stored up to some point.  It reads only after this one has ended, so no fence is needed.
    """

    def __init__(self, memory: memoryview) -> None:
        halves = half_at(memory, 0), half_at(memory, 1)
        self._generation, self._current = max(
            (generation_and_tail(half)[0], number) for number, half in enumerate(halves)
        )
        if self._generation > _MOST:
            raise LogError(f"its generation is {self._generation}")
        self._halves = halves
        # words of eight bytes, so that whatever publishes is one store
        self._words = tuple(half[:HALF_HEADER].cast("Q") for half in halves)
        self._end = HALF_HEADER + self._words[self._current][_TAIL]
        #: records that are appended but not written, so do not count yet
        self._pending: list[bytes] = []
        self._memory = memory
        self._number, self.noted = last_note(memory)

    @property
    def free(self) -> int:
        """Bytes that can still be appended."""
        return len(self._halves[0]) - self._end

    @property
    def used(self) -> int:
        """Bytes of records, committed or not."""
        return self._end - HALF_HEADER

    def read(self) -> Scan:
        """The records of the half in force."""
        return scan(self._halves[self._current])

    def append(self, kind: Kind, sequence: int, data: bytes) -> None:
        """Prepare a record after the others, for ``commit``; there must be room for it."""
        record = encode_record(kind, sequence, data)
        self._pending.append(record)
        self._end += len(record)

    def commit(self) -> None:
        """Make every appended record count."""
        data = b"".join(self._pending)
        self._pending.clear()
        self._put(self._halves[self._current], self._end - len(data), data)
        self._words[self._current][_TAIL] = self._end - HALF_HEADER

    def note(self, data: bytes) -> None:
        """Replace ``noted``, a few bytes kept beside the records; b"" for none."""
        self._number += 1
        at = NOTES[self._number & 1]
        note = encode_note(self._number, data)
        # it overwrites the older note: a reader that finds it half written takes the other one
        self._memory[at : at + len(note)] = note
        self.noted = data

    def rewrite(self, records: Iterable[Record]) -> bool:
        """Make these records, and no others, count; False and no change if they do not fit."""
        data = b"".join(encode_record(*record) for record in records)
        if HALF_HEADER + len(data) > len(self._halves[0]):
            return False
        other = 1 - self._current
        words = self._words[other]
        words[_GENERATION] = 0
        self._put(self._halves[other], HALF_HEADER, data)
        words[_TAIL] = len(data)
        self._end = HALF_HEADER + len(data)
        self._pending.clear()
        self._generation += 1
        words[_GENERATION] = self._generation
        self._current = other
        return True

    def _put(self, half: memoryview, at: int, data: bytes) -> None:
        half[at : at + len(data)] = data
