"""Minutes of everything at once: commands, reconnects, rehearsals, kills and a device that misbehaves.

    python tests/soak.py [--minutes 30] [--picture soak.svg] [--without-linux] [--seed 1]

Three instances run side by side, each on a simulated device with faults:

- ``steady``  a driver of the test kit that asks without a pause, leaves and comes back, in order and without
              a word, and is rehearsed to another device; the daemon lives from beginning to end
- ``killed``  the same driver on a daemon that is killed every so often, in the middle of commands, and
              started again: what was acknowledged must be there
- ``linux``   a User Mode Linux guest that changes addresses, queues and VLANs, reloads its driver and is
              rehearsed

It fails if anything hangs, if a command that was acknowledged is not in the
state, if a process grows, or if one of these things never happened; and it
draws what it measured each second.
``test_soak`` runs it for a minute.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.testing.uml import UmlError, UmlGuest
from kit import soak_picture
from kit.soak_driver import PAIRS, PATIENCE, Driven
from kit.soak_subject import LostError, Subject, grown, missing, told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Story = Callable[["Subject", Path, random.Random], Awaitable[None]]

    from cvqd.testing.frontend import FrontEnd

#: seconds in which one thing happens to each instance: a reconnect, a rehearsal, a kill
TURN: Final = 2.0
HARSH: Final = [
    {"command": "*", "action": "err", "every": 97, "count": 1_000_000},
    {"command": "*", "action": "delay", "delay": "50ms", "every": 211, "count": 1_000_000},
    {"command": "*", "action": "twice", "every": 331, "count": 1_000_000},
    {"command": "*", "action": "zero_length", "every": 887, "count": 1_000_000},
    {"command": "*", "action": "drop", "every": 1013, "count": 1_000_000},
    {"command": "*", "action": "wrong_id", "every": 1511, "count": 1_000_000},
    {"command": "*", "action": "needs_reset", "every": 4001, "count": 1_000_000},
]
#: what leaves rehearsals a chance: a device that owes an answer is not left, and one command in a replay of
#: some forty that ends in ERR ends the move
BEARABLE: Final = [
    {"command": "*", "action": "err", "every": 997, "count": 1_000_000},
    {"command": "*", "action": "delay", "delay": "50ms", "every": 211, "count": 1_000_000},
    {"command": "*", "action": "twice", "every": 331, "count": 1_000_000},
    {"command": "*", "action": "zero_length", "every": 2003, "count": 1_000_000},
    {"command": "*", "action": "drop", "every": 10_007, "count": 1_000_000},
    {"command": "*", "action": "wrong_id", "every": 10_009, "count": 1_000_000},
    {"command": "*", "action": "needs_reset", "every": 4001, "count": 1_000_000},
]
#: what a Linux guest survives: it does not come back when it is hung up on, as it is where state cannot be
#: put back, and no state is put back by ``vlan.del``
GENTLE: Final = [
    {"command": "vlan.del", "action": "err", "every": 5, "count": 1_000_000},
    {"command": "*", "action": "delay", "delay": "50ms", "every": 19, "count": 1_000_000},
    {"command": "*", "action": "twice", "every": 31, "count": 1_000_000},
    {"command": "vlan.add", "action": "needs_reset", "every": 97, "count": 1_000_000},
]


async def settled_state(daemon: DaemonProcess) -> dict[str, Any]:
    """State once no answer is owed: a late one may be on its way."""
    state: dict[str, Any] = (await daemon.request("status", deadline=PATIENCE))["state"]
    return state


async def ask_for(driven: Driven, seconds: float) -> None:
    """Ask until the time is up."""
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        await driven.ask()
        await trio.sleep(0.005)


@asynccontextmanager
async def connected(driven: Driven, daemon: DaemonProcess) -> AsyncIterator[None]:
    """As long as the connection lasts, which is closed without a word."""
    front_end = None
    with trio.move_on_after(PATIENCE):
        while front_end is None:
            try:
                front_end = await driven.connect(daemon)
            except FrontEndError:
                # the device did not take its state back: a fault meets commands of cvqd's own too
                driven.subject.happened("start failed")
    if front_end is None:
        raise LostError(f"{driven.subject.name}: no start within {PATIENCE:g} s")
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_for_a_hang_up, driven, front_end, nursery.cancel_scope)
            yield
            nursery.cancel_scope.cancel()
    finally:
        front_end.close()


async def _watch_for_a_hang_up(driven: Driven, front_end: FrontEnd, scope: trio.CancelScope) -> None:
    """A device that keeps failing ends the connection, and so does a daemon that is killed."""
    await front_end.hung_up()
    if driven.subject.daemon is not None:
        driven.subject.happened("hung up on")
    driven.doubt()
    scope.cancel()


async def rehearse(subject: Subject) -> None:
    """There and back; a refusal is an answer too, and a guest on neither goes on with its next kick."""
    assert subject.daemon is not None
    # as the verb would; both devices, at most once each way
    answer = await subject.daemon.request(
        "rehearse", deadline=3 * PATIENCE, to="spare", back=True, times=1, dry=False
    )
    subject.happened("rehearsed" if answer["verdict"] == "passed" else "rehearsal failed")


async def steady(subject: Subject, directory: Path, roll: random.Random) -> None:
    """See the module."""
    driven = Driven(subject, roll)
    content = config(directory, BEARABLE)
    async with DaemonProcess.start(directory, content, deadline=60) as daemon:
        subject.daemon = daemon
        while True:
            async with connected(driven, daemon):
                await driven.take()
                driven.check(await settled_state(daemon))
                for _ in range(roll.randrange(1, 5)):
                    await ask_for(driven, TURN)
                    driven.check(await settled_state(daemon))
                    if roll.random() < 0.4:
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(rehearse, subject)
                            await ask_for(driven, TURN)
                subject.happened(roll.choice(("driver restarted", "reconnected")))
            await gone(daemon)
            if subject.happenings[-1].what == "driver restarted":
                driven.forget()


async def killed(subject: Subject, directory: Path, roll: random.Random) -> None:
    """See the module."""
    driven = Driven(subject, roll)
    content = config(directory, HARSH)
    while True:
        async with DaemonProcess.start(directory, content, deadline=60) as daemon:
            subject.daemon = daemon
            async with connected(driven, daemon):
                await driven.take()
                driven.check(await settled_state(daemon))
                for _ in range(roll.randrange(1, 4)):
                    await ask_for(driven, TURN)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask_for, driven, 10 * TURN)
                    await trio.sleep(roll.random())
                    subject.daemon = None
                    subject.happened("killed")
                    daemon.kill()
                    nursery.cancel_scope.cancel()
        driven.doubt()


async def phase(daemon: DaemonProcess) -> str:
    """As in status."""
    return str((await daemon.request("status", deadline=PATIENCE))["phase"])


async def gone(daemon: DaemonProcess) -> None:
    """Wait until the daemon has let go of its front-end."""
    with trio.move_on_after(PATIENCE):
        while await phase(daemon) != "waiting":  # noqa: ASYNC110 - another process's
            await trio.sleep(0.01)
        return
    raise LostError("the daemon does not let go of a front-end that left")


async def linux(subject: Subject, directory: Path, roll: random.Random) -> None:
    """See the module."""
    content = config(directory, GENTLE)
    async with (
        DaemonProcess.start(directory, content, deadline=60) as daemon,
        UmlGuest.boot([Path(daemon.socket)], deadline=120) as guest,
    ):
        subject.daemon = daemon
        try:
            await linux_life(subject, daemon, guest, roll)
        except UmlError as error:
            raise LostError(f"linux: {error}") from error


async def linux_life(subject: Subject, daemon: DaemonProcess, guest: UmlGuest, roll: random.Random) -> None:
    """What the guest does."""
    await guest.load("virtio_net", "8021q", deadline=120)
    while True:
        await guest.check("ip link set eth0 up", deadline=60)
        for _ in range(roll.randrange(2, 6)):
            address = bytes((2, *roll.randbytes(5))).hex(":")
            vlan = roll.randrange(2, 4094)
            lines = [
                f"ip link set eth0 address {address}; echo mac $?",
                f"ethtool -L eth0 combined {roll.randrange(1, PAIRS + 1)} >/dev/null 2>&1",
                f"ip link set eth0 promisc {roll.choice(('on', 'off'))}",
                f"ip link add link eth0 name v type vlan id {vlan} && ip link delete v",
                "cat /sys/class/net/eth0/address",
            ]
            said = (await guest.run("\n".join(lines), deadline=6 * PATIENCE)).text.splitlines()
            subject.commands += 4
            state = await settled_state(daemon)
            if "mac 0" in said and state["mac"] != address:
                raise LostError(f"linux: {address} was acknowledged, the device has {state['mac']}")
            if state["mac"] != said[-1]:
                raise LostError(f"linux: the guest has {said[-1]}, the device {state['mac']}")
            if roll.random() < 0.4:
                await rehearse(subject)
        subject.happened("driver reloaded")
        await guest.unload("virtio_net")
        await guest.load("virtio_net", deadline=60)


def config(directory: Path, faults: list[dict[str, Any]]) -> dict[str, Any]:
    """A device that misbehaves, and a spare one."""
    content = simulator_config(directory, max_queue_pairs=PAIRS, faults=faults)
    content["targets"] = {"spare": dict(content["device"])}
    content["log"]["level"] = "info"
    return content


async def soak(minutes: float, seed: int, *, with_linux: bool) -> list[Subject]:
    """Run all of them for so long; what was measured.  Whatever fails ends it."""
    begun = trio.current_time()
    stories = [("steady", steady), ("killed", killed)]
    if with_linux:
        stories.append(("linux", linux))
    subjects = []
    with tempfile.TemporaryDirectory(prefix="cvqd") as name, trio.move_on_after(60 * minutes):
        async with trio.open_nursery() as nursery:
            for story, play in stories:
                directory = Path(tempfile.mkdtemp(dir=name))
                subject = Subject(story, begun)
                subjects.append(subject)
                nursery.start_soon(subject.watch)
                nursery.start_soon(_explained, play, subject, directory, random.Random(f"{seed}/{story}"))
    return subjects


async def _explained(play: Story, subject: Subject, directory: Path, roll: random.Random) -> None:
    try:
        await play(subject, directory, roll)
    except LostError as error:
        if subject.daemon is not None:
            error.add_note("\n".join(map(json.dumps, subject.daemon.events[-60:])))
        raise


def main(words: list[str]) -> int:
    """Exit status 1 if a process grew or nothing happened; whatever else went wrong is an exception."""
    parser = argparse.ArgumentParser(description="Minutes of everything at once.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--picture", type=Path, default=Path("soak.svg"))
    parser.add_argument("--without-linux", action="store_true", help="no User Mode Linux guest")
    options = parser.parse_args(words)
    subjects = trio.run(lambda: soak(options.minutes, options.seed, with_linux=not options.without_linux))
    options.picture.write_text(soak_picture.draw(subjects))
    findings = [line for subject in subjects for line in (*missing(subject), *grown(subject))]
    for line in [*map(told, subjects), *findings, f"drawn: {options.picture}"]:
        sys.stdout.write(line + "\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
