"""How long a guest is without its data queues while it moves, by the size of its state: one table, one run.

    python tests/bench/switchover.py [--rounds N]

``cvqd run`` is a process of its own with two simulators; the guest's end is in
this one and says the state command by command first.  Each row is the median
over all moves, there and back; the longest blackout is the last column.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.wire.net_control import OK, Command, MacTableSet, VlanAdd, VqPairsSet
from cvqd.wire.virtio import Feature, mask_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PAIRS: Final = 4
PHASES: Final = ("prepare", "suspend", "indices", "replay", "start")


class Size(NamedTuple):
    """How much of a state there is."""

    vlans: int
    addresses: int

    def commands(self) -> Iterator[Command]:
        yield VqPairsSet(PAIRS)
        if self.addresses:
            entries = tuple(b"\x01\x00\x5e" + number.to_bytes(3, "big") for number in range(self.addresses))
            yield MacTableSet((), entries)
        for vid in range(1, self.vlans + 1):
            yield VlanAdd(vid)


SIZES: Final = (Size(0, 0), Size(100, 50), Size(1000, 64), Size(4094, 64))


async def measured(size: Size, rounds: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        config = simulator_config(Path(name), max_queue_pairs=PAIRS)
        config["targets"] = {"spare": config["device"]}
        config["log"]["level"] = "info"
        async with (
            DaemonProcess.start(Path(name), config) as daemon,
            await FrontEnd.connect(daemon.socket) as front_end,
        ):
            with GuestMemory() as memory, NetDriver(memory, PAIRS) as driver:
                order, features = ORDERS["qemu"], await front_end.get_features()
                left_out = mask_of(
                    Feature.PROTOCOL_FEATURES,
                    Feature.HASH_REPORT,
                    Feature.RSS,
                    Feature.INDIRECT_DESC,
                    Feature.EVENT_IDX,
                )
                await front_end.play(order.connect(driver.setup(features & ~left_out)))
                await front_end.play(order.start(driver.setup(features & ~left_out)))
                for command in size.commands():
                    if await driver.command(command.encode()) != OK:
                        raise RuntimeError(f"{command.name} was refused")
                answer = await daemon.request(
                    "rehearse", to="spare", back=True, times=rounds, deadline=30 + 5 * rounds
                )
                if answer["verdict"] != "passed":
                    raise RuntimeError(str(answer["moves"][-1]))
                found: list[dict[str, Any]] = answer["moves"]
                return found


def row(size: Size, moves: list[dict[str, Any]]) -> str:
    def median(values: list[int]) -> str:
        return f"{statistics.median(values) / 1000:.1f}"

    phases = [
        median([each["elapsed_us"] for move in moves for each in move["phases"] if each["phase"] == phase])
        for phase in PHASES
    ]
    blackouts = [move["blackout_us"] for move in moves]
    cells = [
        f"{size.vlans} VLANs, {size.addresses} groups",
        str(moves[0]["commands"]),
        *phases,
        median(blackouts),
        f"{max(blackouts) / 1000:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)  # noqa: T201 -- its purpose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="there and back, for each size")
    rounds = parser.parse_args().rounds
    say(f"{2 * rounds} moves of a guest with {PAIRS} pairs between two simulators, ms", "")
    heads = ("state", "commands", *PHASES, "blackout", "longest")
    say(f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}")
    for size in SIZES:
        say(row(size, trio.run(measured, size, rounds)))


if __name__ == "__main__":
    main()
