"""A guest's control commands on the kernel's vhost-vdpa, and what it takes to map memory: one VM, one table.

    python tests/bench/kernel_path.py [--rounds N]

As ``control_path``, but the device is the kernel's simulator with four queue
pairs, in a virtual machine that is emulated: look at the ratios, not at the
microseconds.  Each end takes its turns in processes of its own; the quietest
turn is shown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from control_path import DEPTHS, ENDS, aim, line, summary
from guest import PAIRS, batch, behind_daemon, beside_device, cores

from cvqd.core.mappings import Mappings
from cvqd.host import shared_memory
from cvqd.host.log_limit import BURST
from cvqd.host.vdpa import CharDevice
from cvqd.wire.vhost_vdpa import Access, BatchMark, Map, Unmap
from cvqd.wire.vhost_vdpa_ioctl import encode_iotlb
from cvqd.wire.virtio import Feature, mask_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from control_path import Times

    from cvqd.testing.net_driver import NetDriver
    from cvqd.wire.vhost_vdpa import IotlbMessage

NODE: Final = "/dev/vhost-vdpa-0"
#: what the kernel's simulator has of ``guest``'s
FEATURES: Final = mask_of(Feature.VERSION_1, Feature.MAC, Feature.MQ, Feature.CTRL_VQ, Feature.CTRL_MAC_ADDR)
#: (end, depth) -> microseconds, measured elsewhere with C drivers, pinned, ``idle=poll``: to compare ratios
QUOTED: Final = {("direct C driver", 1): 6.8, ("direct C driver", 32): 176.0} | {
    ("QEMU 10's shadow queue", 1): 57.0,
    ("QEMU 10's shadow queue", 32): 1983.0,
}
#: the device's worker must not share a processor with the guest, which spins
_ADD: Final = f"""
set -e
echo {PAIRS} > /sys/module/vdpa_sim_net/parameters/pairs
vdpa dev add name vdpa0 mgmtdev vdpasim_net mac 52:54:11:22:33:01
for task in /proc/[0-9]*; do
    if grep -q vDPA $task/comm; then taskset -p 2 ${{task#/proc/}} >&2; fi
done
"""
REGIONS: Final = (1, 8, 500)
_SIZE: Final = 1 << 30
_PAGE: Final = 4096
#: commands of one end in one turn: fewer than a guest may cause log lines at once
_TURN: Final = BURST - 250
_WARM_UP: Final = 50
_MAPPINGS: Final = 5


@asynccontextmanager
async def guest_of(end: str, cpu: int | None) -> AsyncIterator[NetDriver]:
    """A driver connected to one of ``ENDS``."""
    if end == "daemon":
        async with behind_daemon(cpu, NODE, FEATURES) as (driver, _, _):
            yield driver
    else:
        with beside_device("direct" if end == "floor" else "relay", cpu, NODE) as driver:
            yield driver


async def latencies(rounds: int) -> dict[tuple[str, int], Times]:
    """Times of a batch in the quietest turn, by end and depth."""
    guest_cpu, other_cpu = cores()
    everywhere = os.sched_getaffinity(0)
    turns: dict[tuple[str, int], list[Times]] = {(end, depth): [] for end in ENDS for depth in DEPTHS}
    for _ in range(rounds):
        for end in ENDS:
            async with guest_of(end, other_cpu) as driver:
                if guest_cpu is not None:
                    os.sched_setaffinity(0, {guest_cpu})
                for _ in range(_WARM_UP):
                    batch(driver, 1)
                for depth in DEPTHS:
                    taken = [batch(driver, depth) for _ in range(_TURN // len(DEPTHS) // depth)]
                    turns[end, depth].append(summary(taken))
                os.sched_setaffinity(0, everywhere)
    return {key: min(times) for key, times in turns.items()}


async def mapping(regions: int) -> tuple[int, float, float]:
    """Messages to map a gigabyte in so many regions; milliseconds through the daemon's code and bare."""
    device = await CharDevice.open(NODE)
    memory = shared_memory.create("guest", _SIZE)
    backend = await device.get_backend_features()
    await device.set_backend_features(backend)
    size = _SIZE // regions // _PAGE * _PAGE
    maps = [Map(n * size, size, memory, n * size, Access.READ_WRITE) for n in range(regions)]
    messages: list[IotlbMessage] = [BatchMark.BEGIN, *maps, BatchMark.END]
    mappings = Mappings(device, backend)
    ours, bare = [], []
    for _ in range(_MAPPINGS):
        begun = time.perf_counter()
        await mappings.change(0, [], maps)
        ours.append(time.perf_counter() - begun)
        await mappings.change(0, [entry.iova for entry in maps], [])
        begun = time.perf_counter()
        for message in messages:
            os.write(device._fd, encode_iotlb(0, message))
        bare.append(time.perf_counter() - begun)
        for message in (BatchMark.BEGIN, Unmap(0, regions * size), BatchMark.END):
            os.write(device._fd, encode_iotlb(0, message))
    await device.aclose()
    return len(messages), statistics.median(ours) * 1000, statistics.median(bare) * 1000


def measure(rounds: int) -> None:
    """Inside: measure and print."""
    times = trio.run(latencies, rounds)
    line("mac.addr_set on vhost-vdpa, us", "batch p50", "batch p99", "each p50")
    for depth in DEPTHS:
        for end in ENDS:
            p50, p99 = times[end, depth]
            line(f"  depth {depth:>2}  {end}", f"{p50:.0f}", f"{p99:.0f}", f"{p50 / depth:.0f}")
    line("")
    line("ratios of p50", "", "aim")
    for depth in DEPTHS:
        daemon = times["daemon", depth].p50
        aim(f"  depth {depth:>2}  daemon / bare relay", daemon / times["bare", depth].p50, 2, "x")
        line(f"  depth {depth:>2}  daemon / direct", f"{daemon / times['floor', depth].p50:.1f}x")
    aim("  32 in one batch / 32 single", times["daemon", 32].p50 / (32 * times["daemon", 1].p50), 0.5, "x")
    line("")
    line("quoted, not measured here, us", "1 command", "32", "to direct")
    direct = QUOTED["direct C driver", 1]
    for end in dict.fromkeys(name for name, _ in QUOTED):
        one, many = QUOTED[end, 1], QUOTED[end, 32]
        line(f"  {end}", f"{one:g}", f"{many:g}", f"{one / direct:.1f}x")
    line("")
    line("map 1 GiB, milliseconds", "messages", "daemon", "raw loop", "ratio")
    for regions in REGIONS:
        messages, ours, bare = trio.run(mapping, regions)
        line(
            f"  in {regions} region{'s' * (regions > 1)}",
            str(messages),
            f"{ours:.2f}",
            f"{bare:.2f}",
            f"{ours / bare:.1f}x",
        )


def main() -> int:
    """Boot the machine and measure in it."""
    parser = argparse.ArgumentParser(description="Latency of control commands on the kernel's vhost-vdpa.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each end")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        measure(options.rounds)
        return 0
    # it builds a kernel's modules; nothing inside needs it
    from kernel.virtual_machine import boot  # noqa: PLC0415

    with boot() as machine:
        added = machine.run(["sh", "-c", _ADD])
        if added.code:
            raise RuntimeError(added.stderr)
        inside = [sys.executable, __file__, "--inside", "--rounds", str(options.rounds)]
        result = machine.run(inside, timeout=600)
    sys.stdout.write(result.stdout)
    sys.stderr.write(result.stderr)
    return result.code


if __name__ == "__main__":
    sys.exit(main())
