from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.test_tracked import EVERYTHING, MAC, OTHER, commands
from core.test_tracked import fold as fold_commands
from cvqd.core.kept_state import KeptState, fold
from cvqd.core.ledger import Ledger
from cvqd.core.tracked import TrackedState
from cvqd.wire.net_control import MacAddrSet, VlanAdd
from cvqd.wire.state_log import Kind, LogError, Record

if TYPE_CHECKING:
    import random

RESET = TrackedState.after_reset(MAC, EVERYTHING)
LIFE = KeptState(EVERYTHING & ~1, MAC, RESET)


@given(done=st.lists(commands, max_size=12), announce=st.booleans())
def test_a_base_tells_the_state_that_it_was_made_of(done, *, announce: bool):
    life = LIFE._replace(state=fold_commands(done)._replace(announce=announce))
    assert fold(life.base()) == life


@given(st.lists(commands, max_size=12), st.integers(0, 12))
def test_commands_behind_a_base_count_as_if_they_were_in_it(done, cut: int):
    base = LIFE._replace(state=fold_commands(done[:cut])).base()
    later = [Record(Kind.COMMAND, n, command.encode()) for n, command in enumerate(done[cut:], 1)]
    told = fold([*base, *later])
    assert told is not None
    assert told.state == fold_commands(done)


@given(st.lists(commands, max_size=10), st.randoms(use_true_random=False))
def test_what_a_ledger_says_in_the_order_of_answers_folds_to_its_state(done, chance: random.Random):
    """Answers in any order, some of them errors, some late, some never."""
    ledger = Ledger(RESET)
    log = LIFE.base()
    for number, command in enumerate(done, 1):
        ledger.submitted(number, command)
    for number in chance.sample(range(1, len(done) + 1), len(done)):
        match chance.randrange(4):
            case 0:
                ledger.expired(number)
                continue
            case 1:
                ledger.answered(number, acked=False)
            case _:
                ledger.answered(number, acked=True)
        log += [Record(Kind.COMMAND, id_, change.encode()) for id_, change in ledger.take_fresh()]
        told = fold(log)
        assert told is not None
        assert told.state == ledger.state
        if not chance.randrange(3):
            # a compaction between two answers
            log = LIFE._replace(state=ledger.settled).base()
            log += [Record(Kind.COMMAND, id_, change.encode()) for id_, change in ledger.ahead()]


def test_a_life_that_is_over_is_none():
    assert fold([*LIFE.base(), Record(Kind.ENDED, 0, b"")]) is None
    assert fold([Record(Kind.ENDED, 0, b"")]) is None


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([], "no beginning"),
        (LIFE.base()[1:], "no beginning"),
        ([Record(Kind.LIFE, 0, b"short")], "no beginning"),
        ([*LIFE.base(), Record(9, 1, b"")], "kind 9"),
        ([*LIFE.base(), Record(Kind.COMMAND, 1, b"\1")], "no header"),
        ([*LIFE.base(), Record(Kind.COMMAND, 1, VlanAdd(1).encode()[:-1])], "vlan.add takes 2 bytes"),
    ],
)
def test_records_that_are_no_life_are_refused(records: list[Record], reason: str):
    with pytest.raises(LogError, match=reason):
        fold(records)


def test_the_address_of_a_life_is_not_the_one_that_was_set():
    told = fold(LIFE._replace(state=RESET.after(MacAddrSet(OTHER))).base())
    assert told is not None
    assert (told.mac, told.state.mac) == (MAC, OTHER)
