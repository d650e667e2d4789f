"""Changed snapshots by the thousand, and on request by the million.

    CVQD_CASES=1000000 python -m pytest tests/owner/test_snapshot_mutations.py -s

runs a million cases and prints the rate; ``CVQD_SEED`` chooses others.  A
failure names the block; ``run_block(seed, block)`` runs it alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter

import pytest

from cvqd.wire.snapshot import decode
from kit.snapshot_mutations import BLOCK, EXAMPLES, run_block

CASES = int(os.environ.get("CVQD_CASES", "10000"))
SEED = int(os.environ.get("CVQD_SEED", "1"))


@pytest.mark.timeout(60 + CASES // 1000)
def test_any_snapshot_is_refused_with_a_reason_or_is_a_good_one() -> None:
    assert all(decode(example) for example in EXAMPLES)
    outcomes: Counter[str] = Counter()
    blocks = -(-CASES // BLOCK)
    begun = time.perf_counter()
    for block in range(blocks):
        try:
            outcomes += run_block(SEED, block)
        except Exception as error:
            error.add_note(f"in run_block({SEED}, {block})")
            raise
    elapsed = time.perf_counter() - begun
    sys.stdout.write(
        f"\n{blocks * BLOCK} cases in {elapsed:.1f} s, {blocks * BLOCK / elapsed:.0f}/s: {dict(outcomes)}\n"
    )
    # the mixture is worth something only if every end is reached, and often
    for end in ("malformed", "other digest", "incompatible", "equal", "another"):
        assert outcomes[end] >= blocks, f"{end}: {outcomes}"
