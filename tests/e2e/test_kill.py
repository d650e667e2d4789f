"""The daemon is killed (SIGKILL) at random moments while a guest sends commands; no acknowledged one is lost.

The guest is a process of its own (``cvqd.testing.survivor``), keeps its memory
and reconnects.  After each kill the next daemon must know the state that the
guest's acknowledgements make, or one that some of the commands it still waits
for make of that; and when those are answered, exactly the one they all make.

CVQD_KILLS is the number of kills (default 6, on rings of each format), CVQD_SEED repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from cvqd.core.tracked import TrackedState
from cvqd.simulator.spec import default_features
from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.survivor import FEATURES, PAIRS
from cvqd.wire.net_config import format_mac
from cvqd.wire.net_control import decode
from cvqd.wire.virtio import Feature, feature_names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KILLS = int(os.environ.get("CVQD_KILLS", "6"))
SEED = int(os.environ.get("CVQD_SEED", "0")) or random.randrange(1 << 32)
MAC = bytes.fromhex("525400ddee01")
#: seconds for one life of a daemon on a busy machine
PATIENCE = 60


class Guest:
    """Our end of a survivor, and what its device should look like."""

    def __init__(self, process: subprocess.Popen[bytes], reading: trio.lowlevel.FdStream) -> None:
        self._process = process
        self._reading = reading
        self.state = TrackedState.after_reset(MAC, FEATURES)
        self.open: list[str] = []
        self.acknowledged = 0

    @classmethod
    @asynccontextmanager
    async def start(cls, socket: str, seed: int, *, packed: bool) -> AsyncIterator[Guest]:
        ours, theirs = os.pipe()
        words = [sys.executable, "-m", "cvqd.testing.survivor", socket, str(seed)]
        process = _spawn(words + ["--packed"] * packed, theirs)
        reading = trio.lowlevel.FdStream(ours)
        try:
            yield cls(process, reading)
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
            with trio.CancelScope(shield=True):
                await reading.aclose()

    async def tell(self, **what: int) -> dict[str, Any]:
        """Let it live through one life of its daemon."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        line = b""
        with trio.fail_after(PATIENCE):
            while not line.endswith(b"\n"):
                part = await self._reading.receive_some(1 << 20)
                assert part, "the guest has failed; its words are on standard error"
                line += part
        told: dict[str, Any] = json.loads(line)
        for command in told["acked"]:
            self.state = self.state.after(decode(bytes.fromhex(command)))
        self.acknowledged += len(told["acked"])
        self.open = told["open"]
        return told

    def possible(self) -> list[TrackedState]:
        """States that the device may have; each includes one more of the open commands."""
        states = [self.state]
        for command in self.open:
            states.append(states[-1].after(decode(bytes.fromhex(command))))
        return states


def _spawn(words: list[str], answers: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=answers, bufsize=0)
    finally:
        os.close(answers)


@pytest.mark.timeout(PATIENCE * (KILLS + 2))
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
async def test_nothing_that_was_acknowledged_is_lost(tmp_path: Path, *, packed: bool) -> None:
    sys.stdout.write(f"CVQD_SEED={SEED}\n")
    chance = random.Random(SEED)
    offered = default_features(PAIRS) | (Feature.RING_PACKED.mask if packed else 0)
    config = simulator_config(tmp_path, mac=format_mac(MAC), features=feature_names(offered))
    executed = waiting = 0
    async with Guest.start(config["frontend"]["socket"], SEED, packed=packed) as guest:
        for number in range(KILLS + 1):
            async with DaemonProcess.start(tmp_path, config) as daemon:
                expected = guest.possible()
                digests = [state.digest() for state in expected]
                before = guest.acknowledged
                loaded = daemon.named("state.loaded")
                if loaded:
                    assert loaded[0]["digest"] in digests, f"kill {number}, seed {SEED}"
                    executed += digests.index(loaded[0]["digest"])
                else:
                    assert not guest.acknowledged, f"kill {number}, seed {SEED}"
                if number == KILLS:
                    told = await guest.tell(batches=2)
                elif chance.randrange(8):
                    told = await guest.tell(pid=daemon.pid, batches=chance.randrange(6))
                else:
                    told = await guest.tell(pid=daemon.pid, steps=chance.randint(1, 4 + 6 * (2 * PAIRS + 1)))
                waiting += bool(guest.open)
                if told["mac"] and loaded:
                    # the device ran, and began from what was kept
                    assert bytes.fromhex(told["mac"]) in {state.mac for state in expected}
                    put_back = await daemon.until(
                        lambda event: event["event"] in {"state.replayed", "state.reset"}, "of a start"
                    )
                    if put_back["event"] == "state.replayed":
                        assert put_back["digest"] == loaded[0]["digest"]
                    else:
                        # a guest whose first command was not answered yet shows rings that were never used
                        assert not before
                        assert put_back["digest"] == digests[0]
                # what it had to say is here only when it has ended, or has been asked
                if number == KILLS:
                    await daemon.told()
                else:
                    assert await daemon.wait() == -signal.SIGKILL
                assert not daemon.named("cvq.broken")
                assert not daemon.named("cvq.command.refused")
                if number == KILLS:
                    assert not guest.open
                    assert (await daemon.status())["state"]["digest"] == guest.state.digest()
    sys.stdout.write(
        f"{KILLS} kills, {waiting} while the guest waited; {guest.acknowledged} commands acknowledged,"
        f" {executed} more were kept and not seen\n"
    )
    assert guest.acknowledged > KILLS
