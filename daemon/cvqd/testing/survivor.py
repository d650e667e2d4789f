"""A guest in a process of its own that outlives its daemon, and kills it.

    python -m cvqd.testing.survivor SOCKET SEED [--packed]

Memory and rings stay, connections come and go.  It is told what to do by lines
of JSON on standard input, one for each life of its daemon, and answers each with
one line:

    {"pid": N, "batches": B}   connect, send B batches of commands, SIGKILL process N within the next one
    {"pid": N, "steps": S}     connect, SIGKILL process N before the S-th message of the start
    {"batches": B}             connect, send B batches, hang up
    -> {"acked": [...], "open": [...], "mac": "..."}

``acked`` are the commands, in hex and in order, that were acknowledged since the
last line; ``open`` those that the guest still waits for.  They stay in its ring,
and whoever serves it next has to answer them.  ``mac`` is the address that the
daemon showed once the device ran, empty where it never did.

Its front-end remembers nothing of its rings and says that each begins anew, as
libkrun does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import trio

from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.wire.net_control import (
    OK,
    Coalescing,
    CoalRxSet,
    CoalTxSet,
    CoalVqSet,
    Command,
    MacAddrSet,
    MacTableSet,
    RxMode,
    RxModeSet,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.virtio import Feature, mask_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from cvqd.testing.sequences import Sequence
    from cvqd.testing.steps import GuestSetup

PAIRS: Final = 4
FEATURES: Final = mask_of(
    Feature.VERSION_1,
    Feature.MAC,
    Feature.MQ,
    Feature.CTRL_VQ,
    Feature.CTRL_RX,
    Feature.CTRL_VLAN,
    Feature.CTRL_MAC_ADDR,
    Feature.NOTF_COAL,
    Feature.VQ_NOTF_COAL,
)
#: commands of one kick
_DEPTH: Final = 16
#: powers of ten of nanoseconds: from before the daemon wakes up to after its last answer
_WAIT: Final = (4.5, 6.5)
_ANSWER_NS: Final = 20_000_000_000


class Survivor:
    """The guest; one method for each thing that it can be told."""

    def __init__(self, socket: str, seed: int, *, packed: bool) -> None:
        self._socket = socket
        self._chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._features = FEATURES | (Feature.RING_PACKED.mask if packed else 0)
        self._driver = NetDriver(GuestMemory(), PAIRS, ring_format=RingFormat(packed=packed))
        #: posted and not acknowledged, by head, in order
        self._open: dict[int, Command] = {}
        self._acked: list[Command] = []
        self._mac = b""

    async def live(self, *, pid: int = 0, batches: int = 0, steps: int = 0) -> dict[str, Any]:
        """One life of the daemon, from the connection to its end."""
        self._mac = b""
        try:
            async with await FrontEnd.connect(self._socket) as front_end:
                order = ORDERS["libkrun"]
                setup = self._setup()
                await front_end.play(order.connect(setup))
                start = order.start(setup)
                if steps:
                    await front_end.play(_cut(start, steps, pid))
                else:
                    await front_end.play(start)
                    # the start waits for no reply: the answer to this comes after all that was sent before
                    self._mac = await front_end.get_config(0, 6)
                    self._work(pid, batches)
                if pid:
                    # SIGKILL takes its time: until then the daemon may still be answering
                    await front_end.hung_up()
        except FrontEndError:
            if not pid:
                raise
        while self._take():
            pass
        acked, self._acked = self._acked, []
        return {
            "acked": [command.encode().hex() for command in acked],
            "open": [command.encode().hex() for command in self._open.values()],
            "mac": self._mac.hex(),
        }

    def _setup(self) -> GuestSetup:
        setup = self._driver.setup(self._features)
        begins = self._driver.format.initial_base
        return setup._replace(rings=tuple(replace(ring, base=begins) for ring in setup.rings))

    def _work(self, pid: int, batches: int) -> None:
        self._wait_for_all()
        for _ in range(batches):
            self._post()
            self._wait_for_all()
        if pid:
            self._post()
            # as a driver does: what it has seen is acknowledged, whatever happens then
            if self._chance.randrange(3):
                end = time.perf_counter_ns() + int(10 ** self._chance.uniform(*_WAIT))
                while time.perf_counter_ns() < end:
                    self._take()
            else:
                # the moment at which a daemon that persists too late has not persisted yet
                while not self._take():
                    pass
            os.kill(pid, signal.SIGKILL)

    def _post(self) -> None:
        for _ in range(self._chance.randint(1, _DEPTH)):
            command = _any_command(self._chance)
            self._open[self._driver.post_command(command.encode())] = command
        assert self._driver.control is not None
        self._driver.control.notify_if_wanted()

    def _wait_for_all(self) -> None:
        end = time.perf_counter_ns() + _ANSWER_NS
        while self._open:
            if not self._take() and time.perf_counter_ns() > end:
                raise TimeoutError(f"{len(self._open)} commands are not answered")

    def _take(self) -> bool:
        assert self._driver.control is not None
        used = self._driver.control.poll()
        if used is None:
            return False
        if used.head != next(iter(self._open)):
            raise RuntimeError(f"{used.head} was given back out of turn")
        command = self._open.pop(used.head)
        if (ack := self._driver.take_ack(used.head)) != OK:
            raise RuntimeError(f"{command} was acknowledged with {ack}")
        self._acked.append(command)
        return True


def _cut(steps: Sequence, count: int, pid: int) -> Generator[Any, bytes | None, None]:
    """A start that uses no answer; its back-end is killed before the ``count``-th step, or at the end."""
    for place, step in enumerate(iter(steps), 1):
        if place == count:
            os.kill(pid, signal.SIGKILL)
            yield step
            return
        yield step
    os.kill(pid, signal.SIGKILL)


def _any_command(chance: random.Random) -> Command:
    """One that a device with these features acknowledges, whatever came before."""
    address = b"\x52\x54" + chance.randbytes(4)
    group = b"\x01\x00\x5e" + chance.randbytes(3)
    values = Coalescing(chance.randrange(64), chance.randrange(1000))
    return chance.choice(
        (
            MacAddrSet(address),
            RxModeSet(chance.choice((RxMode.PROMISC, RxMode.ALLMULTI)), chance.randrange(2)),
            MacTableSet((address,) * chance.randrange(2), (group,) * chance.randrange(3)),
            VlanAdd(chance.randrange(64)),
            VlanDel(chance.randrange(64)),
            VqPairsSet(chance.randint(1, PAIRS)),
            CoalTxSet(values),
            CoalRxSet(values),
            CoalVqSet(chance.randrange(2 * PAIRS), values),
        )
    )


def main() -> None:
    """Do as told until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m cvqd.testing.survivor", description=__doc__)
    parser.add_argument("socket", metavar="SOCKET")
    parser.add_argument("seed", metavar="SEED", type=int)
    parser.add_argument("--packed", action="store_true", help="packed rings")
    asked = parser.parse_args()
    guest = Survivor(asked.socket, asked.seed, packed=asked.packed)
    for line in sys.stdin:
        told = json.loads(line)

        async def live(told: dict[str, Any] = told) -> dict[str, Any]:
            return await guest.live(**told)

        print(json.dumps(trio.run(live)), flush=True)  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
