"""Random front-ends by the thousand messages, and on request by the million.

    CVQD_CASES=1000000 python -m pytest tests/frontend/test_frontend_mutations.py -s

sends a million messages (some minutes) and prints the rate; ``CVQD_SEED`` chooses others.  A failure
names the block, which ``run_block(seed, block)`` runs alone, and shows the session as text.  Kept as
``corpus/NAME.txt`` it is played by every run from then on.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from kit.frontend_mutations import BLOCK, run_block, run_lines
from kit.rig import open_descriptors

CASES = int(os.environ.get("CVQD_CASES", "10000"))
SEED = int(os.environ.get("CVQD_SEED", "1"))
CORPUS = sorted(Path(__file__).with_name("corpus").glob("*.txt"))


@pytest.mark.timeout(60 + CASES // 200)
def test_any_front_end_is_served_or_refused_and_leaves_nothing() -> None:
    outcomes: Counter[str] = Counter()
    blocks = -(-CASES // BLOCK)
    descriptors = settled = 0
    begun = time.perf_counter()
    for block in range(blocks):
        try:
            outcomes += run_block(SEED, block)
        except BaseException as error:
            error.add_note(f"in run_block({SEED}, {block})")
            raise
        if block == min(10, blocks // 2):
            gc.collect()
            settled, descriptors = sys.getallocatedblocks(), open_descriptors()
    elapsed = time.perf_counter() - begun
    gc.collect()
    growth = sys.getallocatedblocks() - settled
    sys.stdout.write(
        f"\n{outcomes['cases']} cases in {elapsed:.1f} s, {outcomes['cases'] / elapsed:.0f}/s:"
        f" {dict(outcomes)}\n"
    )
    assert growth < 5000, f"{growth} blocks of memory more"
    assert open_descriptors() == descriptors
    # the mixture is worth something only if every end is reached, and often
    for end in ("started", "refused", "commands", "replies", "running"):
        assert outcomes[end] >= blocks, f"{end}: {outcomes}"


@pytest.mark.parametrize("session", CORPUS, ids=lambda path: path.stem)
def test_what_was_found_once_stays_mended(session: Path) -> None:
    assert run_lines(session.read_text())["sessions"] == 1
