"""The guest's end of the measurement: batches of ``mac.addr_set``, timed from the kick to the last answer.

The driver spins on the used index, as Linux' virtio_net does for its control
queue.  Posting commands and checking acks happens outside the time taken.
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from shared_guest import describe

from cvqd.simulator.spec import default_features
from cvqd.testing.daemon import simulator_config
from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.testing.uml import UmlGuest
from cvqd.wire.net_control import OK, MacAddrSet
from cvqd.wire.packed_ring import DESC_AVAILABLE, DESC_USED, PackedBase, used_flags
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.virtio import Feature, feature_names, mask_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from cvqd.testing.driver import DriverQueue

PAIRS = 4
_FEATURES = mask_of(
    Feature.VERSION_1,
    Feature.MAC,
    Feature.MQ,
    Feature.CTRL_VQ,
    Feature.CTRL_RX,
    Feature.CTRL_VLAN,
    Feature.CTRL_MAC_ADDR,
)
SPLIT = RingFormat()
PACKED = RingFormat(packed=True)
#: descriptors of a command: header, data, ack
_PARTS = 3
_OWNERSHIP = DESC_AVAILABLE | DESC_USED
#: another address each time, so that each command changes the tracked state
_COMMANDS = itertools.cycle(
    [MacAddrSet(bytes.fromhex(f"525400c0de{last:02x}")).encode() for last in range(256)]
)
_TIMEOUT_NS = 5_000_000_000
#: a daemon whose default state directory cannot be made, and that was told of no other
_UNKEPT = (
    "from cvqd.owner import state_log; state_log.DEFAULT_STATE = '/dev/null/{instance}';"
    " from cvqd.cli import main; raise SystemExit(main())"
)


def batch(driver: NetDriver, depth: int) -> int:
    """Nanoseconds for ``depth`` commands behind one kick."""
    queue = driver.control
    assert queue is not None
    answered = _answered(queue, depth)
    heads = [driver.post_command(next(_COMMANDS)) for _ in range(depth)]
    clock = time.perf_counter_ns
    begun = clock()
    queue.notify()
    while not answered():
        if clock() - begun > _TIMEOUT_NS:
            raise TimeoutError("a command was not answered")
    elapsed = clock() - begun
    for head in heads:
        used = queue.poll()
        if used is None or used.head != head or driver.take_ack(head) != OK:
            raise RuntimeError("a command failed")
    return elapsed


def _answered(queue: DriverQueue, depth: int) -> Callable[[], bool]:
    """Whether the next ``depth`` commands are back: mostly a look at one place of the ring."""
    if not queue.format.packed:
        split = queue.ring
        goal = split.used_index + depth & 0xFFFF
        return lambda: split.used_index == goal
    packed, base = queue.packed, PackedBase.decode(queue.setup().base)
    awaited: list[tuple[int, int]] = []
    for command in range(depth):
        laps, place = divmod(base.used + _PARTS * command, packed.num)
        awaited.append((place, used_flags(wrap=base.used_wrap ^ bool(laps))))
    # a device publishes a batch from its end
    awaited.reverse()
    return lambda: all(packed.flags(place) & _OWNERSHIP == used for place, used in awaited)


@contextmanager
def beside_device(
    how: str, cpu: int | None, *node: str, ring_format: RingFormat = SPLIT
) -> Iterator[NetDriver]:
    """A guest of ``device_process``: ``direct`` or ``relay``, on the simulator unless a ``node`` is named."""
    script = Path(__file__).with_name("device_process.py")
    with GuestMemory() as memory, NetDriver(memory, PAIRS, ring_format=ring_format) as driver:
        description, descriptors = describe(driver)
        command = [*pinned(cpu), sys.executable, script, how, description, *node]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=descriptors
        ) as process:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError("the device's process did not start")
            yield driver


@contextmanager
def daemon(
    fd: int, cpu: int | None, node: str | None = None, *, packed: bool = False, kept: bool = True
) -> Iterator[tuple[int, Path]]:
    """A daemon as installed, log level info, on a socket (listening or connected); its pid and log file."""
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [*daemon_command(Path(name), cpu, node, packed=packed, kept=kept), "--fd", str(fd)],
                stdin=subprocess.DEVNULL,
                stderr=sink,
                pass_fds=[fd],
            )
        try:
            yield process.pid, log
        finally:
            process.kill()
            process.wait()


@asynccontextmanager
async def behind_daemon(
    cpu: int | None,
    node: str | None = None,
    features: int = _FEATURES,
    ring_format: RingFormat = SPLIT,
    *,
    kept: bool = True,
) -> AsyncIterator[tuple[NetDriver, int, Path]]:
    """A guest of a daemon, with the daemon's pid and log file; ``kept`` if a restart would know its state."""
    ours, theirs = socket.socketpair()
    if ring_format.packed:
        features |= Feature.RING_PACKED.mask
    with theirs, GuestMemory() as memory, NetDriver(memory, PAIRS, ring_format=ring_format) as driver:
        setup = driver.setup(features)
        with daemon(theirs.fileno(), cpu, node, packed=ring_format.packed, kept=kept) as (pid, log):
            # the daemon has its own: one that dies hangs up
            theirs.close()
            async with FrontEnd(ours) as frontend:
                await frontend.play(ORDERS["qemu"].connect(setup))
                await frontend.play(ORDERS["qemu"].start(setup))
                yield driver, pid, log


@asynccontextmanager
async def linux_behind_daemon(cpu: int | None, daemon_cpu: int | None) -> AsyncIterator[UmlGuest]:
    """A Linux guest whose eth0 is a daemon's device."""
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as listening:
        path = Path(name) / "vm0.sock"
        listening.bind(str(path))
        listening.listen()
        with daemon(listening.fileno(), daemon_cpu):
            async with UmlGuest.boot([path], cpu=cpu) as guest:
                yield guest


def daemon_command(
    directory: Path,
    cpu: int | None = None,
    node: str | None = None,
    *,
    packed: bool = False,
    kept: bool = True,
) -> Sequence[str]:
    """``cvqd run`` on the simulator or a ``node``, all files in ``directory``."""
    config = directory / "vm0.yaml"
    content = simulator_config(directory) | {"log": {"level": "info", "format": "json"}}
    if packed:
        content["device"]["features"] = feature_names(default_features(PAIRS) | Feature.RING_PACKED.mask)
    if node is not None:
        content["device"] = {"kind": "vhost-vdpa", "path": node}
    if not kept:
        del content["state"]
    config.write_text(yaml.safe_dump(content))
    program = ["-m", "cvqd"] if kept else ["-c", _UNKEPT]
    return [*pinned(cpu), sys.executable, *program, "run", "--config", str(config)]


def pinned(cpu: int | None) -> list[str]:
    """The words that pin a command to a core."""
    return [] if cpu is None else ["taskset", "--cpu-list", str(cpu)]


def cores() -> tuple[int | None, int | None]:
    """For the guest and for the other end; none where there is only one."""
    own = sorted(os.sched_getaffinity(0))
    return (own[0], own[1]) if len(own) > 1 else (None, None)
