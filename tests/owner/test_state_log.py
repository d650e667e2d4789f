"""The state log as relay and life use it: what the next process finds, whatever happened to this one."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from cvqd.core.kept_state import KeptState
from cvqd.core.ledger import Ledger
from cvqd.core.queues.packed_answers import Answered, PackedAnswers
from cvqd.core.state_keeper import NothingKept
from cvqd.core.tracked import TableKept, TrackedState
from cvqd.errors import StateError
from cvqd.host import state_file
from cvqd.owner.state_log import StateLog
from cvqd.testing.events import EventRecorder
from cvqd.wire.net_control import CoalVqGet, MacAddrSet, MacTableSet, StatsQuery, VlanAdd
from cvqd.wire.packed_ring import PackedDescriptor
from cvqd.wire.state_log import HALF_HEADER, HEADER_SIZE
from cvqd.wire.virtio import Feature, mask_of

if TYPE_CHECKING:
    from pathlib import Path

    from cvqd.wire.net_control import Command

MAC = bytes.fromhex("525400000001")
OTHER = bytes.fromhex("525400000002")
FEATURES = mask_of(*Feature)
RESET = TrackedState.after_reset(MAC, FEATURES)
LIFE = KeptState(FEATURES & ~1, MAC, RESET)
MAX_COMMAND = 4096


def opened(directory: Path, log: EventRecorder | None = None, **changes: object) -> StateLog:
    asked: dict[str, object] = {"device": "vdpa0", "devices": {"vdpa0", "spare"}, "max_command": MAX_COMMAND}
    return StateLog.open(str(directory), log or EventRecorder(), **(asked | changes))  # type: ignore[arg-type]


def acknowledge(ledger: Ledger, *commands: Command, first: int = 1) -> None:
    for number, command in enumerate(commands, first):
        ledger.submitted(number, command)
        ledger.answered(number, acked=True)


def a_life(directory: Path, *commands: Command, **changes: object) -> TrackedState:
    """A process that began one, kept these commands and is gone."""
    with closing(opened(directory, **changes)) as kept:
        ledger = Ledger(RESET)
        kept.begin(LIFE)
        acknowledge(ledger, *commands)
        kept.commit(ledger)
        return ledger.state


def test_a_log_full_of_what_stands_behind_a_lost_answer_goes_on(tmp_path: Path):
    table = MacTableSet(tuple(bytes([2, 0, 0, 0, n >> 8, n & 255]) for n in range(600)), ())
    with closing(opened(tmp_path)) as kept:
        ledger = Ledger(RESET)
        kept.begin(LIFE)
        assert kept.reserve(4, ledger)
        ledger.submitted(1, VlanAdd(1))
        ledger.expired(1)
        for number in range(2, 302):
            assert kept.reserve(len(table.encode()), ledger), number
            acknowledge(ledger, table, VlanAdd(number), first=2 * number)
            kept.commit(ledger)
        assert ledger.uncertain, "nobody will know about the first"
        state = ledger.state
    with closing(opened(tmp_path)) as kept:
        assert kept.loaded is not None
        assert kept.loaded.state == state


def test_a_state_kept_under_a_larger_limit_stays(tmp_path: Path):
    table = MacTableSet(tuple((0x020000000000 + n).to_bytes(6, "big") for n in range(100_000)), ())
    state = a_life(tmp_path, table, max_command=1 << 20)
    for _ in range(2):
        with closing(opened(tmp_path, max_command=256)) as kept:
            assert kept.loaded is not None
            assert kept.loaded.state == state


def test_what_one_process_kept_the_next_one_knows(tmp_path: Path):
    state = a_life(tmp_path, MacAddrSet(OTHER), VlanAdd(5), MacTableSet((OTHER,), ()))
    log = EventRecorder()
    with closing(opened(tmp_path, log)) as kept:
        assert kept.loaded == LIFE._replace(state=state)
        assert log.names() == ["state.loaded", "state.kept"]
        assert log.of("state.loaded")[0]["digest"] == state.digest()
    # and the one after it, though the second never ran a guest
    with closing(opened(tmp_path)) as kept:
        assert kept.loaded == LIFE._replace(state=state)
        kept.begin(LIFE)
        assert kept.loaded is None


def test_a_life_that_ended_is_not_gone_on_with(tmp_path: Path):
    with closing(opened(tmp_path)) as kept:
        assert kept.loaded is None
        kept.begin(LIFE)
        answered = Answered(PackedDescriptor(0x1000, 64, 0, 0), 1, 0, 1)
        kept.note(PackedAnswers(num=8, place=0, wrap=True, answered=(answered,)))
        assert kept.noted
        kept.end()
        assert not kept.noted, "the next driver's ring is another"
        kept.compact(Ledger(RESET))
    log = EventRecorder()
    with closing(opened(tmp_path, log)) as kept:
        assert kept.loaded is None
        assert log.names() == ["state.kept"]


def test_a_state_that_does_not_fit_is_not_silently_left_out(tmp_path: Path):
    large = RESET._replace(unicast=(OTHER,) * 100_000)
    with closing(opened(tmp_path)) as kept, pytest.raises(StateError, match="does not fit"):
        kept.begin(LIFE._replace(state=large))


def test_questions_are_not_kept_and_a_widened_table_is_one_that_was_asked_for(tmp_path: Path):
    with closing(opened(tmp_path)) as kept:
        ledger = Ledger(RESET)
        kept.begin(LIFE)
        used = kept._log.used
        acknowledge(ledger, StatsQuery(), CoalVqGet(1))
        kept.commit(ledger)
        assert kept._log.used == used
        table = MacTableSet((OTHER,), ())
        ledger.submitted(9, table)
        ledger.amended(9, TableKept(table, widened=True))
        ledger.answered(9, acked=True)
        kept.commit(ledger)
    with closing(opened(tmp_path)) as kept:
        assert kept.loaded == LIFE._replace(state=RESET.after(table))


def test_an_announcement_that_is_asked_for_is_kept(tmp_path: Path):
    with closing(opened(tmp_path)) as kept:
        ledger = Ledger(RESET)
        kept.begin(LIFE)
        ledger.raise_announce()
        kept.compact(ledger)
    with closing(opened(tmp_path)) as kept:
        assert kept.loaded is not None
        assert kept.loaded.state.announce


def test_however_many_commands_there_were_there_is_room_for_one_more(tmp_path: Path):
    with closing(opened(tmp_path)) as kept:
        ledger = Ledger(RESET)
        kept.begin(LIFE)
        for number in range(1, 30_000):
            command = VlanAdd(number % 4096) if number % 2 else MacAddrSet(number.to_bytes(6, "little"))
            assert kept.reserve(len(command.encode()), ledger)
            acknowledge(ledger, command, first=number)
            kept.commit(ledger)
        longest = MacTableSet((), tuple(n.to_bytes(6, "little") for n in range((MAX_COMMAND - 10) // 6)))
        for number in range(30_000, 30_200):
            assert kept.reserve(len(longest.encode()), ledger)
            acknowledge(ledger, longest, first=number)
            kept.commit(ledger)
        state = ledger.state
    with closing(opened(tmp_path)) as kept:
        assert kept.loaded == LIFE._replace(state=state)


def test_what_is_on_its_way_has_its_place_and_more_has_to_wait(tmp_path: Path):
    with closing(opened(tmp_path)) as kept:
        ledger = Ledger(RESET)
        kept.begin(LIFE)
        sent = 0
        table = MacTableSet((), (OTHER,) * 600)
        while kept.reserve(len(table.encode()), ledger):
            sent += 1
            ledger.submitted(sent, table)
        for number in range(1, sent + 1):
            ledger.answered(number, acked=True)
        kept.commit(ledger)
        assert kept.reserve(len(table.encode()), ledger), "a base takes their place"


def test_a_log_is_compacted_behind_what_still_may_be_answered(tmp_path: Path):
    """The answer of an expired command says what happened before the commands behind it."""
    with closing(opened(tmp_path)) as kept:
        ledger = Ledger(RESET)
        kept.begin(LIFE)
        ledger.submitted(1, MacAddrSet(OTHER))
        ledger.expired(1)
        acknowledge(ledger, MacAddrSet(b"\2\0\0\0\0\3"), first=2)
        kept.commit(ledger)
        kept.compact(ledger)
        ledger.answered(1, acked=True)
        kept.commit(ledger)
        state = ledger.state
        assert state.mac == b"\2\0\0\0\0\3"
    with closing(opened(tmp_path)) as kept:
        assert kept.loaded is not None
        assert kept.loaded.state == state


def test_tidying_waits_until_it_is_worth_it(tmp_path: Path):
    with closing(opened(tmp_path)) as kept:
        ledger = Ledger(RESET)
        kept.begin(LIFE)
        base = kept._log.used
        while kept._log.used - base <= 128 << 10:
            before = kept._log.used
            kept.tidy(ledger)
            assert kept._log.used == before
            acknowledge(ledger, VlanAdd(1))
            kept.commit(ledger)
        kept.tidy(ledger)
        assert kept._log.used < 1000


def test_another_boot_makes_it_outdated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    a_life(tmp_path, VlanAdd(5))
    monkeypatch.setattr("cvqd.owner.state_log.boot_id", lambda: b"another boot id.")
    log = EventRecorder()
    with closing(opened(tmp_path, log)) as kept:
        assert kept.loaded is None
    assert log.names() == ["state.outdated", "state.kept"]
    assert not (tmp_path / "state.log.refused").exists()


def test_the_state_of_a_target_is_ours_and_that_of_a_stranger_is_put_aside(tmp_path: Path):
    state = a_life(tmp_path, VlanAdd(5), device="spare")
    with closing(opened(tmp_path)) as kept:
        assert kept.loaded == LIFE._replace(state=state)
    log = EventRecorder()
    with closing(opened(tmp_path, log, device="vdpa9", devices={"vdpa9"})) as kept:
        assert kept.loaded is None
    assert log.names() == ["state.refused", "state.kept"]
    refused = log.of("state.refused")[0]
    assert "another device, vdpa0" in str(refused["reason"])
    assert (tmp_path / "state.log.refused").exists()


def test_a_log_of_another_size_is_taken_over(tmp_path: Path):
    state = a_life(tmp_path, VlanAdd(5))
    with closing(opened(tmp_path, max_command=1 << 20)) as kept:
        assert kept.loaded == LIFE._replace(state=state)


@pytest.mark.parametrize("content", [b"", b"something else", b"cvqd-log" + bytes(20_000)])
def test_what_is_no_log_is_put_aside(tmp_path: Path, content: bytes):
    (tmp_path / "state.log").write_bytes(content)
    log = EventRecorder()
    with closing(opened(tmp_path, log)) as kept:
        assert kept.loaded is None
    assert log.names() == ["state.refused", "state.kept"]
    assert (tmp_path / "state.log.refused").read_bytes() == content


def damaged(directory: Path, record: int, *, cut: bool = False) -> tuple[EventRecorder, KeptState | None]:
    """A log of 2 + 4 records, the first the life itself, with one of them damaged."""
    a_life(directory, *(VlanAdd(vid) for vid in range(1, 5)))
    path = directory / "state.log"
    log = bytearray(path.read_bytes())
    half = (len(log) - HEADER_SIZE) // 2
    generations = [log[HEADER_SIZE + n * half] for n in (0, 1)]
    at = HEADER_SIZE + generations.index(max(generations)) * half + HALF_HEADER
    for _ in range(record):
        length = int.from_bytes(log[at + 4 : at + 8], "little") & 0xFFFFFFF
        at += 16 + (length + 7 & ~7)
    if cut:
        log[at + 8 :] = bytes(len(log) - at - 8)
    else:
        log[at + 16] ^= 1
    path.write_bytes(log)
    events = EventRecorder()
    with closing(opened(directory, events)) as kept:
        return events, kept.loaded


@pytest.mark.parametrize("cut", [False, True])
def test_a_record_that_is_damaged_costs_what_stands_behind_it_and_nothing_else(tmp_path: Path, *, cut: bool):
    commands = len(LIFE.base()) - 1
    log, loaded = damaged(tmp_path, 1 + commands + 2, cut=cut)
    assert log.names() == ["state.damaged", "state.loaded", "state.kept"]
    assert log.of("state.damaged")[0]["lost_bytes"] == 2 * 24
    assert loaded == LIFE._replace(state=RESET.after(VlanAdd(1)).after(VlanAdd(2)))


def test_a_log_without_a_beginning_is_put_aside(tmp_path: Path):
    log, loaded = damaged(tmp_path, 0)
    assert log.names() == ["state.refused", "state.kept"]
    assert loaded is None


def test_a_start_that_fails_lets_go_of_the_directory_and_of_nothing_that_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    state = a_life(tmp_path, VlanAdd(5))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state_file.os, "posix_fallocate", full)
        with pytest.raises(StateError, match="No space left") as caught:
            opened(tmp_path)
        assert caught.value.exit_code == 73
    with closing(opened(tmp_path)) as kept:
        assert kept.loaded == LIFE._replace(state=state)


def test_where_nothing_is_kept_nothing_grows():
    kept, ledger = NothingKept("because"), Ledger(RESET)
    acknowledge(ledger, VlanAdd(5))
    assert kept.reserve(10, ledger)
    kept.commit(ledger)
    assert ledger.take_fresh() == []
    assert (kept.loaded, kept.path, kept.reason) == (None, None, "because")
