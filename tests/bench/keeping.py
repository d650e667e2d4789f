"""What the state log itself costs a command, in processor time: a figure that a busy machine leaves alone.

python tests/bench/keeping.py
"""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from typing import TYPE_CHECKING

from control_path import DEPTHS, line

from cvqd.core.kept_state import KeptState
from cvqd.core.ledger import Ledger
from cvqd.core.state_keeper import NothingKept
from cvqd.core.tracked import TrackedState
from cvqd.owner.state_log import StateLog
from cvqd.simulator.spec import DEFAULT_MAC, default_features
from cvqd.testing.events import EventRecorder
from cvqd.wire.net_control import MacAddrSet

if TYPE_CHECKING:
    from cvqd.core.state_keeper import StateKeeper

FEATURES = default_features(4)
LIFE = KeptState(FEATURES, DEFAULT_MAC, TrackedState.after_reset(DEFAULT_MAC, FEATURES))
COMMANDS = [MacAddrSet(bytes((2, 0, 0, 0, 0, last))) for last in range(256)]
#: commands of one turn: enough for some compactions
_TURN = 24_000
_TURNS = 5


def keeping(kept: StateKeeper, depth: int) -> float:
    """Microseconds of one command when ``depth`` are acknowledged together; the least of some turns."""
    return min(_turn(kept, depth) for _ in range(_TURNS)) / 1000


def _turn(kept: StateKeeper, depth: int) -> float:
    ledger = Ledger(LIFE.state)
    kept.begin(LIFE)
    clock = time.thread_time_ns
    taken = 0
    for first in range(1, _TURN, depth):
        batch = [COMMANDS[number & 0xFF] for number in range(first, first + depth)]
        begun = clock()
        for _ in batch:
            kept.reserve(8, ledger)
        between = clock()
        for number, command in enumerate(batch, first):
            ledger.submitted(number, command)
            ledger.answered(number, acked=True)
        again = clock()
        kept.commit(ledger)
        kept.tidy(ledger)
        taken += clock() - again + between - begun
    return taken / _TURN


def show() -> None:
    """A row for each depth."""
    with tempfile.TemporaryDirectory() as directory:
        log = StateLog.open(
            directory, EventRecorder(), device="vdpa0", devices={"vdpa0"}, max_command=64 << 10
        )
        with closing(log):
            line("keeping one command, processor time", "log", "no log")
            for depth in DEPTHS:
                costs = keeping(log, depth), keeping(NothingKept(), depth)
                line(f"  depth {depth:>2}", *(f"{cost:.2f} us" for cost in costs))


if __name__ == "__main__":
    show()
