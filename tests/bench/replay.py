"""How long the largest state takes to be put back into a device: pipelined, as cvqd does, and one by one.

    python tests/bench/replay.py [--rounds N]

4094 VLANs, 64 addresses, four pairs with a steering table, modes, offloads and
coalescing, on the embedded simulator, which shares the daemon's process: so this
is the cost of both.  The two ways take turns; of each the quickest is shown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from control_path import aim, line, watching_others

from cvqd.core.ledger import Ledger
from cvqd.owner import driver_life
from cvqd.owner.replay import replay
from cvqd.simulator.spec import SimulatorSpec, default_features
from cvqd.wire.net_control import (
    Coalescing,
    CoalRxSet,
    CoalTxSet,
    CoalVqSet,
    GuestOffloadsSet,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxMode,
    RxModeSet,
    VlanAdd,
)
from cvqd.wire.virtio import Feature
from kit.rig import MAC_A, Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cvqd.core.queues.shadow_queue import ShadowQueue
    from cvqd.host.doorbell import DoorbellSet
    from cvqd.wire.net_control import Command

PAIRS = 4
ADDRESSES = tuple(bytes((0x52, 0x54, 0, 0, 1, n)) for n in range(32))
GROUPS = tuple(bytes((1, 0, 0x5E, 0, 1, n)) for n in range(32))
EVERYTHING: tuple[Command, ...] = (
    MacAddrSet(MAC_A),
    MacTableSet(ADDRESSES, GROUPS),
    RssConfig(0b111, 7, 0, (0, 1, 2, 3, 0, 1, 2, 3), PAIRS, bytes(range(40))),
    GuestOffloadsSet(Feature.GUEST_CSUM.mask),
    CoalTxSet(Coalescing(16, 100)),
    CoalRxSet(Coalescing(32, 200)),
    RxModeSet(RxMode.PROMISC, 0),
    RxModeSet(RxMode.NOBCAST, 1),
    *(VlanAdd(vid) for vid in range(1, 4095)),
    *(CoalVqSet(queue, Coalescing(queue, 50)) for queue in range(2 * PAIRS)),
)


class Outcome(NamedTuple):
    """Seconds first, so that the least is the quickest."""

    seconds: float
    commands: int
    kicks: int


async def one_by_one(
    commands: Sequence[Command],
    shadow: ShadowQueue,
    doorbells: DoorbellSet,
    kick: Callable[[], None],
    deadline: float,
    *,
    may_widen: bool,
) -> bool:
    """As ``replay``, each command alone."""
    widened = [
        await replay([command], shadow, doorbells, kick, deadline, may_widen=may_widen)
        for command in commands
    ]
    return any(widened)


async def put_back(way: Callable[..., object]) -> Outcome:
    """A guest with that state reconnects."""
    taken = Outcome(0.0, 0, 0)

    async def watched(
        commands: Sequence[Command],
        shadow: ShadowQueue,
        doorbells: DoorbellSet,
        kick: Callable[[], None],
        deadline: float,
        *,
        may_widen: bool,
    ) -> bool:
        nonlocal taken
        kicks = 0

        def counted() -> None:
            nonlocal kicks
            kicks += 1
            kick()

        begun = time.perf_counter()
        widened = await way(commands, shadow, doorbells, counted, deadline, may_widen=may_widen)  # type: ignore[misc]
        elapsed = time.perf_counter() - begun
        taken = Outcome(taken.seconds + elapsed, taken.commands + len(commands), taken.kicks + kicks)
        return widened

    spec = SimulatorSpec(max_queue_pairs=PAIRS)
    features = default_features(PAIRS) & ~(Feature.ACCESS_PLATFORM.mask | Feature.HASH_REPORT.mask)
    with tempfile.TemporaryDirectory() as name:
        async with Rig.opened(Path(name), spec) as rig, rig.guest("crosvm", features=features) as guest:
            await guest.start()
            await guest.set_mac(MAC_A)
            state = rig.owner.state
            for command in EVERYTHING:
                state = state.after(command)
            guest.front_end.close()
            while rig.backend.connected:
                await trio.lowlevel.checkpoint()
            rig.owner.life.ledger = Ledger(state)
            rig.log.events.clear()
            usual, driver_life.replay_commands = driver_life.replay_commands, watched
            try:
                async with guest.behind(rig) as back:
                    await back.start()
            finally:
                driver_life.replay_commands = usual
            if rig.log.of("state.replayed")[-1]["digest"] != state.digest():
                raise RuntimeError("the device was given another state")
    return taken


async def measure(rounds: int) -> tuple[Outcome, Outcome]:
    """The quickest of each way."""
    pipelined, single = [], []
    for _ in range(rounds):
        pipelined.append(await put_back(replay))
        single.append(await put_back(one_by_one))
    return min(pipelined), min(single)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Replay of the largest state, pipelined and one by one.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each")
    asked = parser.parse_args()
    with watching_others():
        pipelined, single = trio.run(measure, asked.rounds)
        line("state put back into the simulator", "ms", "commands", "kicks", "us each")
        for label, found in (("  pipelined", pipelined), ("  one by one", single)):
            each = found.seconds / found.commands * 1e6
            line(label, f"{found.seconds * 1e3:.1f}", f"{found.commands}", f"{found.kicks}", f"{each:.1f}")
        line("")
        aim("  pipelined / one by one", pipelined.seconds / single.seconds, 0.33, "x")


if __name__ == "__main__":
    main()
