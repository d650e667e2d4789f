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
import os
import random
import statistics
import sys
import tempfile
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

import soak_picture
from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.testing.uml import UmlError, UmlGuest
from cvqd.wire.net_control import OK, Command, MacAddrSet, RxMode, RxModeSet, VlanAdd, VlanDel, VqPairsSet
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.virtio import Feature, mask_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAIRS: Final = 4
#: seconds that a guest may wait for an answer on a busy machine: its deadline, and then some
PATIENCE: Final = 20.0
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
#: without these a soak has shown nothing
HAPPENS: Final = {
    "steady": ("rehearsed", "reconnected", "driver restarted"),
    "killed": ("killed",),
    "linux": ("rehearsed", "driver reloaded"),
}
LEFT_OUT: Final = mask_of(Feature.PROTOCOL_FEATURES, Feature.RSS, Feature.HASH_REPORT)


class Sample(NamedTuple):
    """Of one instance's daemon at one moment: seconds, MB resident, descriptors, commands answered so far."""

    at: float
    memory: float
    descriptors: int
    commands: int


class Happening(NamedTuple):
    """Something that was done to an instance."""

    at: float
    what: str


class LostError(AssertionError):
    """The soak's finding."""


class Subject:
    """One instance, what was asked of it, and what it cost."""

    def __init__(self, name: str, begun: float) -> None:
        self.name = name
        self.daemon: DaemonProcess | None = None
        self.commands = 0
        self.acks: Counter[int] = Counter()
        self.samples: list[Sample] = []
        self.happenings: list[Happening] = []
        self._begun = begun

    def happened(self, what: str) -> None:
        """Remember it for the picture."""
        self.happenings.append(Happening(trio.current_time() - self._begun, what))

    async def watch(self) -> None:
        """A sample each second, while there is a daemon."""
        while True:
            await trio.sleep(1)
            if self.daemon is None:
                continue
            process = Path(f"/proc/{self.daemon.pid}")
            try:
                pages = int((process / "statm").read_text().split()[1])
                descriptors = len(list((process / "fd").iterdir()))
            except OSError:
                # killed this moment
                continue
            memory = pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
            self.samples.append(Sample(trio.current_time() - self._begun, memory, descriptors, self.commands))
            # what is in the log is in the way after an hour
            del self.daemon.events[:-1000]


class Driven:
    """A driver of the test kit, and what the device must be like by what it was told."""

    def __init__(self, subject: Subject, roll: random.Random) -> None:
        self.subject = subject
        self.memory = GuestMemory(16 << 20)
        self.driver: NetDriver | None = None
        self._roll = roll
        self.features = 0
        #: heads of commands that were posted and not answered when the connection ended
        self._owed: list[tuple[int, Command]] = []
        #: by what was acknowledged; None where an ERR leaves two possibilities
        self.mac: bytes | None = None
        self.pairs: int | None = 1
        self.modes: dict[str, bool | None] = {}
        self.vlans: dict[int, bool | None] = {}

    def forget(self) -> None:
        """A driver that starts over: rings that were never used, a device in its reset state."""
        assert self.driver is not None
        for queue in self.driver.queues:
            queue.restart()
        self._owed.clear()
        self.mac, self.pairs = None, 1
        self.modes.clear()
        self.vlans.clear()

    async def connect(self, daemon: DaemonProcess) -> FrontEnd:
        """A front-end with this guest behind it, started."""
        front_end = await FrontEnd.connect(daemon.socket)
        try:
            offered = await front_end.get_features() & ~LEFT_OUT
            if self.driver is None:
                self.features = offered
                self.driver = NetDriver(self.memory, PAIRS, 64, ring_format=RingFormat.of(offered))
            setup = self.driver.setup(self.features)
            await front_end.play(ORDERS["qemu"].connect(setup))
            await front_end.play(ORDERS["qemu"].start(setup))
            await front_end.get_features()
        except BaseException:
            front_end.close()
            raise
        return front_end

    def choose(self) -> Command:
        """The next command."""
        roll = self._roll
        match roll.randrange(5):
            case 0:
                return MacAddrSet(bytes((2, *roll.randbytes(5))))
            case 1:
                return VqPairsSet(roll.randrange(1, PAIRS + 1))
            case 2:
                return RxModeSet(roll.choice((RxMode.PROMISC, RxMode.ALLMULTI)), roll.randrange(2))
            case 3:
                return VlanAdd(roll.randrange(64))
            case _:
                return VlanDel(roll.randrange(64))

    async def ask(self) -> None:
        """Up to eight commands in one batch, and their answers."""
        assert self.driver is not None
        control = self.driver.control
        assert control is not None
        for _ in range(self._roll.choice((0, 1, 1, 1, 2, 8))):
            command = self.choose()
            self._owed.append((self.driver.post_command(command.encode()), command))
        control.notify()
        await self.take()

    async def take(self) -> None:
        """Answers to all that was asked, in order."""
        assert self.driver is not None
        control = self.driver.control
        assert control is not None
        while self._owed:
            with trio.move_on_after(PATIENCE):
                # ``wait`` may be cancelled with an answer in its hands
                while (used := control.poll()) is None:
                    await trio.lowlevel.wait_readable(control._call_end)
                    control.drain_call()
            if used is None:
                raise LostError(f"{self.subject.name}: no answer to {self._owed[0][1]} within {PATIENCE:g} s")
            head, command = self._owed.pop(0)
            if used.head != head:
                raise LostError(f"{self.subject.name}: {command} was answered out of turn")
            ack = self.driver.take_ack(head)
            self.subject.commands += 1
            self.subject.acks[ack] += 1
            self._learn(command, acked=ack == OK)

    def doubt(self) -> None:
        """A connection that ended: what was asked and not answered may be done when the next one begins."""
        for _, command in self._owed:
            self._learn(command, acked=False)

    def _learn(self, command: Command, *, acked: bool) -> None:
        """An answer that came too late moves the state behind an ERR, so an ERR says nothing."""
        match command:
            case MacAddrSet(mac):
                self.mac = mac if acked else None
            case VqPairsSet(pairs):
                self.pairs = pairs if acked else None
            case RxModeSet(mode, on):
                self.modes[mode.name.lower()] = bool(on) if acked else None
            case VlanAdd(vlan):
                self.vlans[vlan] = True if acked else None
            case VlanDel(vlan):
                self.vlans[vlan] = False if acked else None

    def check(self, state: dict[str, Any]) -> None:
        """Hold what the daemon keeps against what it acknowledged."""
        wrong: list[str] = []
        if self.mac is not None and state["mac"] != self.mac.hex(":"):
            wrong.append(f"mac {state['mac']}, acknowledged {self.mac.hex(':')}")
        if self.pairs is not None and state["pairs"] != self.pairs:
            wrong.append(f"pairs {state['pairs']}, acknowledged {self.pairs}")
        for mode, on in self.modes.items():
            if on is not None and state["rx"][mode] is not on:
                wrong.append(f"{mode} {state['rx'][mode]}, acknowledged {on}")
        wrong += [
            f"VLAN {vlan} {vlan in state['vlans']}, acknowledged {there}"
            for vlan, there in self.vlans.items()
            if there is not None and (vlan in state["vlans"]) is not there
        ]
        if wrong:
            raise LostError(f"{self.subject.name}: {'; '.join(wrong)}")


async def settled_state(daemon: DaemonProcess) -> dict[str, Any]:
    """State once no answer is owed: a late one may be on its way."""
    state: dict[str, Any] = (await daemon.request("status", deadline=PATIENCE))["state"]
    return state


async def ask_for(driven: Driven, seconds: float) -> bool:
    """Ask until the time is up; whether the connection is still there."""
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        await driven.ask()
        await trio.sleep(0.005)
    return True


@asynccontextmanager
async def connected(driven: Driven, daemon: DaemonProcess) -> AsyncIterator[FrontEnd]:
    """A connection, closed without a word."""
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
        yield front_end
    finally:
        front_end.close()


async def rehearse(subject: Subject) -> None:
    """There and back; a refusal is an answer too, a guest left on neither device is not."""
    assert subject.daemon is not None
    # as the verb would; both devices, at most once each way
    answer = await subject.daemon.request(
        "rehearse", deadline=3 * PATIENCE, to="spare", back=True, times=1, dry=False
    )
    subject.happened("rehearsed" if answer["verdict"] == "passed" else "rehearsal refused")
    if answer["guest_on"] is None:
        raise LostError(f"{subject.name}: the rehearsal left the guest on no device: {answer}")


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
                    await asked_unless_hung_up(driven, daemon)
                    if await phase(daemon) != "running":
                        subject.happened("hung up on")
                        break
                    driven.check(await settled_state(daemon))
                    if roll.random() < 0.4:
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(rehearse, subject)
                            await asked_unless_hung_up(driven, daemon)
                if roll.random() < 0.5:
                    subject.happened("driver restarted")
                else:
                    subject.happened("reconnected")
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
                    await asked_unless_hung_up(driven, daemon)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask_for, driven, 10 * TURN)
                    await trio.sleep(roll.random())
                    subject.daemon = None
                    subject.happened("killed")
                    daemon.kill()
                    nursery.cancel_scope.cancel()
        driven.doubt()


async def asked_unless_hung_up(driven: Driven, daemon: DaemonProcess) -> None:
    """One turn of commands; it ends early where a device that keeps failing ends the connection."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_for_a_hang_up, driven, daemon, nursery.cancel_scope)
        await ask_for(driven, TURN)
        nursery.cancel_scope.cancel()


async def _watch_for_a_hang_up(driven: Driven, daemon: DaemonProcess, scope: trio.CancelScope) -> None:
    await daemon.event("frontend.disconnected", after=len(daemon.events), deadline=1e9)
    driven.doubt()
    scope.cancel()


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
            last = "\n".join(map(str, daemon.events[-20:]))
            raise LostError(f"linux: {error}\n{last}") from error


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


def missing(subject: Subject) -> list[str]:
    """What should have happened and did not."""
    happened = {happening.what for happening in subject.happenings}
    found = [f"{subject.name}: never {what}" for what in HAPPENS[subject.name] if what not in happened]
    if not subject.commands:
        found.append(f"{subject.name}: no command")
    return found


def grown(subject: Subject) -> list[str]:
    """What grew, from the first half to the second."""
    samples = subject.samples[len(subject.samples) // 10 :]
    half = len(samples) // 2
    if half < 10:
        return []
    early, late = samples[:half], samples[half:]
    found: list[str] = []
    memory = [statistics.median(sample.memory for sample in part) for part in (early, late)]
    if memory[1] > 1.05 * memory[0] + 1:
        found.append(f"{subject.name}: {memory[0]:.1f} MB became {memory[1]:.1f}")
    # a rehearsal has two devices open for a moment; what it leaves would be there for good
    descriptors = [statistics.median(sample.descriptors for sample in part) for part in (early, late)]
    if descriptors[1] > descriptors[0] + 2:
        found.append(f"{subject.name}: {descriptors[0]:g} descriptors became {descriptors[1]:g}")
    return found


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
                nursery.start_soon(play, subject, directory, random.Random(f"{seed}/{story}"))
    return subjects


def told(subject: Subject) -> str:
    """One line."""
    happenings = Counter(happening.what for happening in subject.happenings)
    last = subject.samples[-1]
    return (
        f"{subject.name}: {subject.commands} commands ({dict(subject.acks)}), {dict(happenings)},"
        f" {last.memory:.1f} MB and {last.descriptors} descriptors in the end"
    )


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
