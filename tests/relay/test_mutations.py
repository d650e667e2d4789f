"""Random guests by the thousand, and on request by the million.

    CVQD_CASES=1000000 python -m pytest tests/relay/test_mutations.py -s

runs a million cases (about a minute) and prints the rate; ``CVQD_SEED`` chooses
others.  A failure names the block; ``run_block(seed, block)`` runs it alone.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter

import pytest

from kit.mutations import BLOCK, run_block
from kit.rig import open_descriptors

CASES = int(os.environ.get("CVQD_CASES", "50000"))
SEED = int(os.environ.get("CVQD_SEED", "1"))


@pytest.mark.timeout(60 + CASES // 2000)
def test_any_guest_is_answered_or_its_queue_is_left_alone() -> None:
    # what tests before this one left to the collector is not to be found missing later
    gc.collect()
    descriptors = open_descriptors()
    outcomes: Counter[str] = Counter()
    blocks = -(-CASES // BLOCK)
    settled = 0
    begun = time.perf_counter()
    for block in range(blocks):
        try:
            outcomes += run_block(SEED, block)
        except Exception as error:
            error.add_note(f"in run_block({SEED}, {block})")
            raise
        if block == min(10, blocks // 2):
            gc.collect()
            settled = sys.getallocatedblocks()
    elapsed = time.perf_counter() - begun
    gc.collect()
    growth = sys.getallocatedblocks() - settled
    sys.stdout.write(
        f"\n{blocks * BLOCK} cases in {elapsed:.1f} s, {blocks * BLOCK / elapsed:.0f}/s: {dict(outcomes)}\n"
    )
    assert growth < 5000, f"{growth} blocks of memory more"
    assert open_descriptors() == descriptors
    # the mixture is worth something only if every end is reached, and often
    for end in ("ok", "refused", "malformed", "broken", "expired", "err", "late", "given back", "packed"):
        assert outcomes[end] >= blocks, f"{end}: {outcomes}"
