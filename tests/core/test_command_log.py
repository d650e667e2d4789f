"""The log in memory; what a process that is killed leaves is found by stopping it between any two stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvqd.core.command_log import CommandLog
from cvqd.wire.state_log import HEADER_SIZE, Kind, LogError, Record, Scan, record_size

if TYPE_CHECKING:
    from collections.abc import Callable

HALF = 1024


def fresh() -> memoryview:
    return memoryview(bytearray(HEADER_SIZE + 2 * HALF))


def command(number: int, length: int = 4) -> Record:
    return Record(Kind.COMMAND, number, bytes([number]) * length)


def write(log: CommandLog, *records: Record) -> None:
    for record in records:
        log.append(Kind(record.kind), record.sequence, record.data)


def test_what_was_committed_is_read_and_what_was_only_appended_is_not():
    memory = fresh()
    log = CommandLog(memory)
    write(log, command(1), command(2))
    log.commit()
    write(log, command(3))
    assert log.read() == CommandLog(memory).read() == Scan([command(1), command(2)], 0)
    log.commit()
    assert CommandLog(memory).read().records[-1] == command(3)
    assert log.used == 3 * record_size(4)
    assert log.free == HALF - 16 - log.used


def test_a_rewrite_replaces_everything_and_halves_take_turns():
    memory = fresh()
    log = CommandLog(memory)
    for turn in range(5):
        assert log.rewrite([command(turn + 1)])
        write(log, command(9))
        log.commit()
        assert CommandLog(memory).read().records == [command(turn + 1), command(9)]


def test_what_was_appended_is_gone_after_a_rewrite():
    log = CommandLog(fresh())
    write(log, command(1))
    assert log.rewrite([command(2)])
    log.commit()
    assert log.read() == Scan([command(2)], 0)


def test_a_rewrite_that_does_not_fit_changes_nothing():
    log = CommandLog(fresh())
    assert log.rewrite([command(1, HALF - 16 - record_size(0))])
    assert log.free == 0
    assert log.rewrite([command(1)])
    assert not log.rewrite([command(1, HALF - 16 - record_size(0) + 1)])
    write(log, command(2))
    log.commit()
    assert log.read().records == [command(1), command(2)]


def test_a_generation_that_nobody_can_have_made_is_refused():
    memory = fresh()
    memory[HEADER_SIZE + 7] = 0xFF
    with pytest.raises(LogError, match="generation"):
        CommandLog(memory)


class Stops(CommandLog):
    """Ends before its ``left``-th store."""

    def __init__(self, memory: memoryview, left: int) -> None:
        super().__init__(memory)
        self.left = left
        watched = [_Watched(words, self._store) for words in self._words]
        self._words = watched  # type: ignore[assignment]

    def _store(self) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1

    def _put(self, half: memoryview, at: int, data: bytes) -> None:
        # a copy that is under way is done in parts
        for begin in range(0, len(data), 20):
            self._store()
            super()._put(half, at + begin, data[begin : begin + 20])


class _Watched:
    def __init__(self, words: memoryview, store: Callable[[], None]) -> None:
        self.words, self.store = words, store

    def __getitem__(self, place: int) -> int:
        return self.words[place]

    def __setitem__(self, place: int, value: int) -> None:
        self.store()
        self.words[place] = value


steps = st.lists(
    st.one_of(
        st.tuples(st.just("batch"), st.integers(1, 3)),
        st.tuples(st.just("rewrite"), st.integers(1, 3)),
    ),
    min_size=1,
    max_size=6,
)


@given(steps)
def test_killed_before_any_store_it_leaves_one_of_two_neighbouring_logs(steps):
    left = 0
    while is_cut_short(steps, left):
        left += 1


def is_cut_short(steps: list[tuple[str, int]], left: int) -> bool:
    """Whether so many stores do not suffice; what stands then is a whole log, the older or the newer one."""
    memory = fresh()
    log = Stops(memory, left)
    before: list[Record] = []
    after: list[Record] = []
    try:
        for step, count in steps:
            batch = [command(number) for number in range(count)]
            after = [*before, *batch] if step == "batch" else batch
            if step == "batch":
                write(log, *batch)
                log.commit()
            else:
                log.rewrite(batch)
            before = after
    except KeyboardInterrupt:
        assert CommandLog(memory).read() in (Scan(before, 0), Scan(after, 0))
        return True
    assert CommandLog(memory).read() == Scan(after, 0)
    return False


def test_a_note_that_is_half_written_leaves_the_one_before():
    memory = fresh()
    log = CommandLog(memory)
    for data in (b"first", b"second", b"third"):
        log.note(data)
        assert log.noted == CommandLog(memory).noted == data
    before = bytes(memory)
    log.note(b"fourth")
    places = [at for at, (old, new) in enumerate(zip(before, memory, strict=True)) if old != new]
    memory[places[-1]] ^= 1
    assert CommandLog(memory).noted == b"third"
