"""A relay on a stage: a guest's ring in plain memory, and a device that does what the test says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cvqd.core.address_space import AddressSpace
from cvqd.core.ledger import Ledger
from cvqd.core.policy import Policy
from cvqd.core.queues.guest_queue import Chain, GuestQueue
from cvqd.core.queues.shadow_queue import ShadowLayout, ShadowQueue
from cvqd.core.tracked import TrackedState
from cvqd.relay import Relay
from cvqd.telemetry.journal import Journal
from cvqd.testing.events import EventRecorder
from cvqd.wire.net_control import (
    Command,
    decode,
)
from cvqd.wire.split_ring import SplitRing, ring_sizes
from cvqd.wire.vhost_vdpa import Access
from cvqd.wire.virtio import Feature, mask_of
from kit.ring_memory import RingMemory, no_fence

if TYPE_CHECKING:
    from collections.abc import Callable

MAC = bytes.fromhex("525400000001")
OTHER = bytes.fromhex("525400000002")
IOVA = 0x7000_0000


class Stage:
    """A relay, the guest's end and the device's end of it."""

    def __init__(
        self, *, features: int = mask_of(*Feature), slots: int = 64, announces: bool = False
    ) -> None:
        self.guest = RingMemory(num=256)
        self.log = EventRecorder()
        self.journal = Journal(self.log)
        self.ledger = Ledger(TrackedState(MAC))
        layout = ShadowLayout(2 * slots, 256)
        memory = memoryview(bytearray(layout.size))
        space = AddressSpace()
        space.add(IOVA, memory, Access.READ_WRITE)
        self.shadow = ShadowQueue(layout, memory, IOVA, no_fence)
        parts = zip(layout.addresses(IOVA), ring_sizes(layout.num), strict=True)
        ring = SplitRing(layout.num, *(space.contiguous(at, size, Access.READ) for at, size in parts))
        self.device = GuestQueue(ring, space, no_fence)
        self.kicks = self.calls = self._heads = self._answered = 0
        self.relay = Relay(
            guest=GuestQueue(self.guest.ring, self.guest.space, no_fence),
            shadow=self.shadow,
            ledger=self.ledger,
            policy=Policy(features, max_pairs=4, announces=announces),
            journal=self.journal,
            deadline=1.0,
            max_command=256,
            kick_device=self._kick,
            call_guest=self._call,
        )

    def _kick(self) -> None:
        self.kicks += 1

    def _call(self) -> None:
        self.calls += 1

    def step(self, now: float, *, fetch: bool = True) -> bool:
        more = self.relay.step(now, fetch=fetch)
        self.journal.tell()
        return more

    def send(self, *commands: Command) -> None:
        for command in commands:
            self.guest.command(command.encode(), head=self._heads % 254, offset=32 * (self._heads % 254))
            self._heads += 2

    def device_takes(self) -> list[tuple[Chain, Command]]:
        taken = []
        while (chain := self.device.pop()) is not None:
            taken.append((chain, decode(chain.read(1000))))
        return taken

    def device_gives(self, *chains: Chain, ack: int = 0) -> None:
        for chain in chains:
            chain.write(bytes([ack]))
            self.device.push(chain, 1)
        self.device.publish()

    def device_obeys(self) -> list[Command]:
        taken = self.device_takes()
        self.device_gives(*(chain for chain, _ in taken))
        return [command for _, command in taken]

    def answers(self) -> list[int]:
        """Status bytes of the commands given back since the last call, in the ring's order."""
        found = []
        while self._answered != self.guest.ring.used_index:
            head, written = self.guest.ring.used_element(self._answered)
            assert written == 1
            found.append(self.guest.byte(self.guest.ring.descriptor(head + 1).address))
            self._answered = (self._answered + 1) & 0xFFFF
        return found


class ScriptedDoorbells:
    """Stands in for ``DoorbellSet``: each wait is the next step of a test; the last one ends it."""

    class Over(Exception):  # noqa: N818
        pass

    def __init__(self, *waits: Callable[[], list[int]]) -> None:
        self.kicked = False
        self.until: list[float | None] = []
        self._waits = list(waits)

    def rang(self) -> bool:
        return self.kicked

    async def wait(self, deadline: float | None = None) -> list[int]:
        self.until.append(deadline)
        self.kicked = False
        if not self._waits:
            raise self.Over
        return self._waits.pop(0)()


async def run_until_over(stage: Stage, doorbells: ScriptedDoorbells) -> None:
    with pytest.raises(ScriptedDoorbells.Over):
        await stage.relay.run(doorbells)
