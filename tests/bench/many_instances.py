"""Many instances on one machine: how long they take to start and stop, what each costs while nothing happens.

    python tests/bench/many_instances.py [--instances 64] [--seconds 10]

Each is a daemon of its own on the simulator, first without a front-end, then
with a guest whose driver runs and asks nothing.  Memory is as smaps_rollup has
it (proc(5)): *proportional* counts a page that n processes share as a nth for
each, *private* counts only what goes when the process goes.  Processor time is
all threads' together.  A wake-up is a return from sleep
(voluntary_ctxt_switches): an instance that is never woken costs nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.virtio import Feature, mask_of

#: seconds that anything may take that all of them do at once
PATIENCE = 300.0


def say(line: str) -> None:
    """One line of the result, as soon as it is known."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Cost(NamedTuple):
    """Of one process: kB, kB, seconds, times."""

    proportional: int
    private: int
    processor: float
    wakeups: int


def cost(pid: int) -> Cost:
    """All that ``pid`` has cost so far."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB", rollup, re.MULTILINE)}
    # behind the process's name, which may contain anything: fields 14 and 15, utime and stime
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    switches = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        (voluntary,) = re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status.read_text(), re.MULTILINE)
        switches += int(voluntary)
    ticks = int(fields[11]) + int(fields[12])
    return Cost(
        found["Pss"],
        found["Private_Clean"] + found["Private_Dirty"],
        ticks / os.sysconf("SC_CLK_TCK"),
        switches,
    )


async def idle(what: str, daemons: list[DaemonProcess], seconds: float) -> None:
    """Print what they cost in this time."""
    before = [cost(daemon.pid) for daemon in daemons]
    await trio.sleep(seconds)
    after = [cost(daemon.pid) for daemon in daemons]
    spent = [(late.processor - early.processor) / seconds for early, late in zip(before, after, strict=True)]
    woken = [(late.wakeups - early.wakeups) / seconds for early, late in zip(before, after, strict=True)]
    for name, unit, values in (
        ("proportional memory", "MB", [late.proportional / 1024 for late in after]),
        ("private memory", "MB", [late.private / 1024 for late in after]),
        ("processor", "% of one", [100 * share for share in spent]),
        ("wake-ups", "per second", woken),
    ):
        say(
            f"{what:<16} {name:<20} median {statistics.median(values):7.2f}  most {max(values):7.2f} {unit},"
            f" all together {sum(values):.1f}"
        )


async def connect(daemon: DaemonProcess, stack: AsyncExitStack) -> None:
    """Put a guest on an instance, with one queue pair's worth of rings in use."""
    front_end = await stack.enter_async_context(await FrontEnd.connect(daemon.socket))
    left_out = mask_of(Feature.PROTOCOL_FEATURES, Feature.MQ, Feature.RSS, Feature.HASH_REPORT)
    features = await front_end.get_features() & ~left_out
    memory = stack.enter_context(GuestMemory(1 << 20))
    driver = stack.enter_context(NetDriver(memory, 1, 64, ring_format=RingFormat.of(features)))
    await front_end.play(ORDERS["uml"].connect(driver.setup(features)))
    await front_end.play(ORDERS["uml"].start(driver.setup(features)))


async def main(instances: int, seconds: float) -> None:
    """Start, idle, start guests, idle, stop."""
    with tempfile.TemporaryDirectory(prefix="cvqd") as name:
        async with AsyncExitStack() as stack:
            begun = time.monotonic()
            daemons: list[DaemonProcess] = []

            async def start(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
                directory = Path(tempfile.mkdtemp(dir=name))
                content = simulator_config(directory)
                content["log"]["level"] = "info"
                async with DaemonProcess.start(directory, content, deadline=PATIENCE) as daemon:
                    daemons.append(daemon)
                    task_status.started()
                    assert await daemon.wait(deadline=PATIENCE * 10) == 0

            nursery = await stack.enter_async_context(trio.open_nursery())
            async with trio.open_nursery() as starting:
                for _ in range(instances):
                    starting.start_soon(nursery.start, start)
            took = time.monotonic() - begun
            processor = sum(cost(daemon.pid).processor for daemon in daemons)
            say(
                f"{instances} instances ready after {took:.1f} s, started at once on {os.cpu_count()}"
                f" processors: {took / instances:.2f} s for each, {processor / instances:.2f} s of processor"
            )
            await idle("no front-end", daemons, seconds)
            async with AsyncExitStack() as guests:
                begun = time.monotonic()
                for daemon in daemons:
                    await connect(daemon, guests)
                took = time.monotonic() - begun
                say(f"{instances} guests started after {took:.1f} s, one after the other")
                await idle("an idle guest", daemons, seconds)
                begun = time.monotonic()
                async with trio.open_nursery() as stopping:
                    for daemon in daemons:
                        stopping.start_soon(partial(daemon.stop, deadline=PATIENCE))
                say(
                    f"{instances} instances stopped after {time.monotonic() - begun:.1f} s, all asked at once"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What many idle instances cost.")
    parser.add_argument("--instances", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    trio.run(main, arguments.instances, arguments.seconds)
