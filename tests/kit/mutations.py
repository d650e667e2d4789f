"""Random guests at full speed: queue, codec, policy, relay and ledger without a socket or a clock.

A *case* is one chain that a guest offers (``random_guest``), from a good command
by random changes of its bytes, its descriptors or the ring itself.  Cases come
in blocks; a block is made from its seed alone, so one that fails can be run by
itself.

The device here judges commands as the simulator does.  So relay and device check
each other: the device must accept what the policy lets through, and both must
have made the same state of what was acknowledged.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Final

from cvqd.core.address_space import AddressSpace
from cvqd.core.ledger import Ledger
from cvqd.core.policy import HashLimits, Policy
from cvqd.core.queues.guest_queue import Chain, GuestQueue
from cvqd.core.queues.shadow_queue import ShadowLayout, ShadowQueue
from cvqd.core.tracked import TrackedState
from cvqd.relay import Relay
from cvqd.simulator.control import HASH_TYPES, MAX_KEY, MAX_TABLE, Control
from cvqd.simulator.spec import SimulatorSpec
from cvqd.telemetry.journal import Journal
from cvqd.wire.net_control import ERR, OK, AnnounceAck, RxMode
from cvqd.wire.packed_ring import PackedBase
from cvqd.wire.split_ring import SplitRing
from cvqd.wire.vhost_vdpa import Access
from cvqd.wire.virtio import Feature
from kit.mutated_chains import MAX_COMMAND, SHADOW_IOVA
from kit.random_guest import RandomGuest
from kit.ring_memory import no_fence

if TYPE_CHECKING:
    from cvqd.wire.ring_format import AnyRing, RingFormat

BLOCK: Final = 1000
DEADLINE: Final = 1.0
MAX_ANSWER: Final = 1024

SPEC: Final = SimulatorSpec(max_queue_pairs=4)
FEATURES: Final = SPEC.offered_features & ~Feature.ACCESS_PLATFORM.mask
POLICY: Final = Policy(
    FEATURES, SPEC.max_queue_pairs, hashing=HashLimits(MAX_KEY, MAX_TABLE, HASH_TYPES), max_answer=MAX_ANSWER
)
ANNOUNCE: Final = AnnounceAck().encode()


class Silent:
    """A log that nobody reads; the event's fields are made all the same."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()

    def emit(self, name: str, /, *, mono_ns: int | None = None, **_: object) -> None:
        del mono_ns
        self.events[name] += 1

    def enabled(self, _: str, /) -> bool:
        return True


class RecordingQueue(GuestQueue):
    """Remembers what it popped and what was given back."""

    def __init__(self, ring: AnyRing, memory: AddressSpace, ring_format: RingFormat) -> None:
        super().__init__(
            ring, memory, no_fence, indirect=ring_format.indirect, event_index=ring_format.event_index
        )
        self._live = ring
        self.popped: list[int] = []
        self.pushed: list[int] = []

    def pop(self) -> Chain | None:
        chain = super().pop()
        if chain is not None:
            self.popped.append(chain.head)
        return chain

    def push(self, chain: Chain, written: int) -> None:
        self.pushed.append(chain.head)
        assert 0 <= written <= min(chain.writable_length, MAX_ANSWER)
        super().push(chain, written)
        # at once: the guest may have named the ring itself as the place for a later answer
        if isinstance(self._live, SplitRing):
            assert self._live.used_element(self._ring._next_used - 1) == (chain.head, written)


class Device:
    """Obeys the shadow queue, or in a block with ``faults`` sometimes does not."""

    def __init__(
        self,
        roll: random.Random,
        memory: memoryview,
        layout: ShadowLayout,
        ring_format: RingFormat,
        *,
        faults: bool,
    ) -> None:
        self.control = Control(SPEC)
        self.control.negotiated(SPEC.offered_features)
        self.executed = 0
        self._roll = roll
        self._faults = faults
        space = AddressSpace()
        space.add(SHADOW_IOVA, memory[: layout.readable], Access.READ)
        space.add(SHADOW_IOVA + layout.readable, memory[layout.readable :], Access.READ_WRITE)
        addresses = layout.addresses(SHADOW_IOVA, packed=ring_format.packed)
        sizes = ring_format.sizes(layout.num)
        parts = (space.contiguous(at, size, Access.READ) for at, size in zip(addresses, sizes, strict=True))
        self._queue = GuestQueue(
            ring_format.open(layout.num, parts), space, no_fence, event_index=ring_format.event_index
        )
        self._packed = ring_format.packed
        self._late: list[tuple[Chain, bytes]] = []

    def turn(self) -> None:
        """Serve everything that was submitted."""
        queue = self._queue
        if self._late and self._roll.random() < 0.3:
            self._give(*self._late.pop(self._roll.randrange(len(self._late))))
        while (chain := queue.pop()) is not None:
            assert chain.fault is None, chain.fault
            if self._roll.random() < 0.02:
                # it may always say no; then nothing has changed
                self._give(chain, bytes((ERR,)))
                continue
            command = chain.read(MAX_COMMAND)
            answer = self.control.answer(command)
            # whether an announcement is pending is the device's to know
            assert answer[0] == OK or command == ANNOUNCE, "allowed by the policy, not by the device"
            self.executed += 1
            fault = self._roll.random() if self._faults else 1.0
            if fault < 0.03:
                self._late.append((chain, answer))
            elif fault < 0.04:
                queue.push(chain, 0)
            elif fault < 0.05:
                self._give(chain, answer)
                if not self._packed:
                    # nobody can follow a packed ring in which an id comes twice
                    queue.push(chain, 1)
            else:
                self._give(chain, answer)
        queue.publish()

    def _give(self, chain: Chain, answer: bytes) -> None:
        self._queue.push(chain, chain.write(answer))


class World:
    """One block's guest, daemon and device."""

    def __init__(self, seed: str) -> None:
        self.roll = random.Random(seed)
        self.guest = RandomGuest(self.roll)
        self.log = Silent()
        self.journal = Journal(self.log)
        self.now = 0.0
        self.outcomes: Counter[str] = Counter()
        self._layout = ShadowLayout(32, MAX_COMMAND, MAX_ANSWER)
        self._shadow_memory = memoryview(bytearray(self._layout.size))
        self._faults = self.roll.random() < 0.5
        self.start()

    def start(self) -> None:
        """A ring that begins anew, and a daemon and a device that were reset."""
        guest = self.guest
        guest.start()
        self.queue = RecordingQueue(guest.ring, guest.memory, guest.format)
        self._used = 0
        self.ledger = Ledger(TrackedState.after_reset(SPEC.mac, FEATURES))
        shadow = ShadowQueue(self._layout, self._shadow_memory, SHADOW_IOVA, no_fence, guest.format)
        self.device = Device(self.roll, self._shadow_memory, self._layout, guest.format, faults=self._faults)
        self.kicked = False
        self.relay = Relay(
            guest=self.queue,
            shadow=shadow,
            ledger=self.ledger,
            policy=POLICY,
            journal=self.journal,
            deadline=DEADLINE,
            max_command=MAX_COMMAND,
            kick_device=self._kick,
            call_guest=lambda: None,
        )

    def _kick(self) -> None:
        self.kicked = True

    def settle(self) -> None:
        """Let daemon and device work until every chain is back, and compare."""
        for _ in range(4 * self.guest.num + 8):
            more = self.relay.step(self.now)
            if self.roll.random() < 0.05:
                self.guest.scribble()
            if self.kicked:
                self.kicked = False
                self.device.turn()
            elif not more:
                if not self.relay._open:
                    break
                # nothing rings any more: what is open waits for its deadline
                self.now += DEADLINE
        else:
            raise AssertionError("the relay does not come to rest")
        self.journal.tell()
        self._check_used()
        if self.relay._guest_broken:
            self.outcomes["broken"] += 1
            self._compare()
            self.start()
        elif self.guest.format.packed:
            base = PackedBase.decode(self.queue.base)
            assert (base.used, base.used_wrap) == base[:2], "nothing is left with the daemon"
            self.guest.goes_on(base)

    def _check_used(self) -> None:
        queue = self.queue
        assert queue.pushed == queue.popped, "each chain once, in order"
        if self.guest.format.packed:
            self.outcomes["given back"] += len(queue.pushed)
            self.outcomes["packed"] += len(queue.pushed)
            queue.popped.clear()
            queue.pushed.clear()
            return
        assert queue._ring._next_used == (self._used + len(queue.pushed)) & 0xFFFF
        self.outcomes["given back"] += len(queue.pushed)
        self._used = queue._ring._next_used
        queue.popped.clear()
        queue.pushed.clear()

    def _compare(self) -> None:
        if self._faults:
            return
        tracked, device = self.ledger.state, self.device.control.state
        assert tracked.mac == device.mac
        assert tracked.pairs == device.pairs
        modes = sum(1 << mode for mode in device.modes)
        if tracked.widened:
            # it refused the tables: they are the guest's all the same, and every frame is let in
            assert modes == tracked.rx | 1 << RxMode.PROMISC
        else:
            assert modes == tracked.rx
            assert (set(tracked.unicast), set(tracked.multicast)) == (device.unicast, device.multicast)
        assert set(tracked.vlan_ids()) == device.vlans
        assert tracked.hashing == (device.rss or device.report)
        assert tracked.offloads == device.offloads
        queues = range(2 * SPEC.max_queue_pairs)
        assert [tracked.coalescing.of(queue) for queue in queues] == [*map(device.coalescing, queues)]
        assert not self.ledger.uncertain
        assert not any(outcome == "expired" for _, outcome in self.journal.answers)


def run_block(seed: int, block: int, cases: int = BLOCK) -> Counter[str]:
    """Outcomes of one block; AssertionError or whatever was raised names no case but the block."""
    world = World(f"{seed}/{block}")
    roll = world.roll
    left = cases
    while left:
        batch = min(left, roll.randrange(1, max(2, world.guest.num)))
        for _ in range(batch):
            world.guest.offer()
        left -= batch
        world.settle()
    world._compare()
    for (_, outcome), count in world.journal.answers.items():
        world.outcomes[outcome] += count
    world.outcomes["malformed"] += world.journal.counts["chains_malformed"]
    world.outcomes["executed by the device"] += world.device.executed
    return world.outcomes
