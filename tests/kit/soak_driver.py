"""The driver of a soak: it sends commands, leaves and comes back, and records what was acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.wire.net_control import OK, Command, MacAddrSet, RxMode, RxModeSet, VlanAdd, VlanDel, VqPairsSet
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.virtio import Feature, mask_of
from kit.soak_subject import LostError, Subject

if TYPE_CHECKING:
    import random

    from cvqd.testing.daemon import DaemonProcess

PAIRS: Final = 4
#: seconds that a guest may wait for an answer on a busy machine: its deadline, and then some
PATIENCE: Final = 20.0
LEFT_OUT: Final = mask_of(Feature.PROTOCOL_FEATURES, Feature.RSS, Feature.HASH_REPORT)


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
