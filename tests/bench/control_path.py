"""How fast a guest's control command is, and against what: one table, one run.

    python tests/bench/control_path.py [--rounds N] [--ring split|packed|both]

``floor`` is a driver straight on the simulator in its own process, ``bare`` a
relay of sixty lines between the same two ends (of split rings), ``daemon`` is
``cvqd run``, ``unkept`` the same where no state is kept for a restart.
The guest is on one core, the other end on another.  The three take turns in
fresh processes, each turn short enough for the daemon to write every log line
it has.  Of each end's turns the quietest is shown (the lowest p50), and at the
end how busy others kept the machine.  Aims are printed as met or not met; the
exit code is 0 either way.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import trio
from footprint import private_memory, start_up
from guest import PACKED, SPLIT, batch, behind_daemon, beside_device, cores, linux_behind_daemon

from cvqd import testing
from cvqd.host.log_limit import BURST
from cvqd.testing.uml import UmlGuest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cvqd.testing.net_driver import NetDriver
    from cvqd.wire.ring_format import RingFormat

DEPTHS: Final = (1, 8, 32)
ENDS: Final = ("floor", "bare", "daemon", "unkept")
#: the bare relay reads split rings only
RINGS: Final = {"split": (SPLIT, ENDS), "packed": (PACKED, ("floor", "daemon", "unkept"))}
_WARM_UP: Final = 50
#: commands in one turn: fewer than a guest may cause log lines at once
_TURN: Final = BURST - 200
_IOCTLS: Final = _TURN


class Times(NamedTuple):
    """Microseconds."""

    p50: float
    p99: float


Latencies = dict[tuple[str, int], Times]


def summary(samples: list[int]) -> Times:
    """Percentiles of nanoseconds."""
    ordered = sorted(samples)
    return Times(ordered[len(ordered) // 2] / 1000, ordered[int(len(ordered) * 0.99)] / 1000)


@asynccontextmanager
async def guest_of(end: str, ring_format: RingFormat, cpu: int | None) -> AsyncIterator[NetDriver]:
    """A driver connected to one of ``ENDS``."""
    if end in ("floor", "bare"):
        how = "direct" if end == "floor" else "relay"
        with beside_device(how, cpu, ring_format=ring_format) as driver:
            yield driver
        return
    kept = end == "daemon"
    async with behind_daemon(cpu, ring_format=ring_format, kept=kept) as (driver, _, log):
        yield driver
        told = log.read_text()
        if ("state.kept" in told) is not kept:
            raise RuntimeError("the wrong daemon was measured")
        # the limit on a guest's lines begins beyond these
        if not 0 < told.count('"cvq.command.acked"') < BURST:
            raise RuntimeError("the daemon was to write every line, and did not")


async def latencies(rounds: int, ring: str) -> Latencies:
    """Times of a batch in the quietest turn, by end and depth."""
    ring_format, ends = RINGS[ring]
    guest_cpu, other_cpu = cores()
    everywhere = os.sched_getaffinity(0)
    turns: dict[tuple[str, int], list[Times]] = {(end, depth): [] for end in ends for depth in DEPTHS}
    for _ in range(rounds):
        for depth in DEPTHS:
            for end in ends:
                async with guest_of(end, ring_format, other_cpu) as driver:
                    if guest_cpu is not None:
                        os.sched_setaffinity(0, {guest_cpu})
                    for _ in range(_WARM_UP):
                        batch(driver, 1)
                    taken = [batch(driver, depth) for _ in range((_TURN - _WARM_UP) // depth)]
                    os.sched_setaffinity(0, everywhere)
                turns[end, depth].append(summary(taken))
    return {key: min(times) for key, times in turns.items()}


async def private() -> float:
    """Megabytes of a daemon whose guest has used its control queue; guest pages excluded."""
    async with behind_daemon(None) as (driver, pid, _):
        for _ in range(200):
            batch(driver, 32)
        return private_memory(pid)


async def ioctls(rounds: int) -> dict[str, Times]:
    """Set-MAC in a Linux guest: on the card behind the daemon, and on an interface without a device.

    The quietest of so many turns, each with a daemon and a guest of its own.
    """
    turns = [await _ioctls() for _ in range(rounds)]
    return {interface: min(turn[interface] for turn in turns) for interface in turns[0]}


async def _ioctls() -> dict[str, Times]:
    script = Path(testing.__file__).with_name("uml_set_mac.py")
    found: dict[str, Times] = {}
    async with linux_behind_daemon(*cores()) as guest:
        await guest.load("virtio_net", "dummy")
        await guest.check("ip link add none0 type dummy")
        for interface in ("eth0", "none0"):
            said = await guest.check(f"{guest.python()} {guest.path(script)} {interface} {_IOCTLS}")
            values = dict(word.split("=") for word in said.split())
            found[interface] = Times(float(values["p50_us"]), float(values["p99_us"]))
    return found


def line(label: str, *cells: str) -> None:
    """One row of the table."""
    text = f"{label:<38}" + "".join(f"{cell:>12}" for cell in cells)
    print(text.rstrip(), flush=True)  # noqa: T201 - its purpose


def aim(label: str, value: float, limit: float, unit: str) -> None:
    """One row that says whether an aim is met."""
    verdict = "met" if value <= limit else "not met"
    line(label, f"{value:.2f}{unit}", f"<= {limit:g}{unit}", verdict)


def show_latencies(times: Latencies, ring: str) -> None:
    """Every end at every depth, then the ratios."""
    _, ends = RINGS[ring]
    line(f"mac.addr_set, {ring} ring, microseconds", "batch p50", "batch p99", "each p50", "each p99")
    for depth in DEPTHS:
        for end in ends:
            p50, p99 = times[end, depth]
            numbers = (p50, p99, p50 / depth, p99 / depth)
            line(f"  depth {depth:>2}  {end}", *(f"{number:.1f}" for number in numbers))
    line("")
    line("ratios of p50", "", "aim")
    for depth in DEPTHS:
        daemon = times["daemon", depth].p50
        if "bare" in ends:
            aim(f"  depth {depth:>2}  daemon / bare", daemon / times["bare", depth].p50, 2, "x")
        line(f"  depth {depth:>2}  daemon / floor", f"{daemon / times['floor', depth].p50:.2f}x")
        cost = daemon - times["unkept", depth].p50
        line(f"  depth {depth:>2}  state kept / not kept", f"{daemon / times['unkept', depth].p50:.2f}x")
        line(f"  depth {depth:>2}  keeping one command", f"{cost / depth:.2f} us")
    aim("  32 in one batch / 32 single", times["daemon", 32].p50 / (32 * times["daemon", 1].p50), 0.5, "x")


def cpu_seconds() -> tuple[float, float]:
    """CPU time since boot: everybody's, and ours with our children's."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) for field in fields[:8])
    everybody = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return everybody, sum(use.ru_utime + use.ru_stime for use in usage)


@contextmanager
def watching_others() -> Iterator[None]:
    """Say at the end how much of the machine went to others meanwhile: figures of a busy machine are high."""
    begun, (everybody, own) = time.monotonic(), cpu_seconds()
    yield
    now, ours = cpu_seconds()
    available = (time.monotonic() - begun) * (os.cpu_count() or 1)
    share = max(0.0, (now - everybody) - (ours - own)) / available
    line("")
    line(f"meanwhile others used {share:.0%} of the machine's {os.cpu_count()} cores")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Latency of control commands, start-up time, memory.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each end at each depth")
    parser.add_argument("--ring", choices=(*RINGS, "both"), default="split", help="format of the rings")
    asked = parser.parse_args()
    with watching_others():
        measure(asked.rounds, list(RINGS) if asked.ring == "both" else [asked.ring])


def measure(rounds: int, rings: list[str]) -> None:
    """Everything, one part after the other."""
    for ring in rings:
        show_latencies(trio.run(latencies, rounds, ring), ring)
        line("")
    line("one instance", "", "aim")
    aim("  start-up to ready, median of 5", statistics.median(start_up() for _ in range(5)), 0.4, " s")
    aim("  private memory, no guest pages", trio.run(private), 42, " MB")
    line("")
    obstacle = UmlGuest.available()
    if obstacle is not None:
        line(f"no Linux guest: {obstacle}")
        return
    times = trio.run(ioctls, min(rounds, 3))
    line("set-MAC ioctl in a Linux guest", "", "aim")
    aim("  p50, through the daemon", times["eth0"].p50, 250, " us")
    line("  p99, through the daemon", f"{times['eth0'].p99:.2f} us")
    line("  p50, interface without a device", f"{times['none0'].p50:.2f} us")


if __name__ == "__main__":
    main()
