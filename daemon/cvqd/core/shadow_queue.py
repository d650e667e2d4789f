"""The driver side of the shadow control queue: submit, reap, expire.

Every command has a slot of its own: two descriptors, a command buffer the
device reads, an answer buffer it writes.  The descriptors never change but
for a length, so a slot that ran out of time stays *quarantined* (in flight,
its buffers untouched) until the device gives it back, and its late answer is
told apart from every other.  Slots are reused in turn, as late as possible:
a device that completes an id twice then names a slot that is not in flight.

The memory is private to the daemon and the device; the device is trusted to
exist, not to be right.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.wire.split_ring import DESC_NEXT, DESC_WRITE, Descriptor, RingAddresses, SplitRing, ring_sizes

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE: Final = 4096
#: an ack and the longest result that is relayed
ANSWER_SIZE: Final = 64
#: what the ack byte holds until the device writes it; no status of virtio 1.3 §5.1.6.5 has this value
UNWRITTEN: Final = 0xFF


@dataclass(frozen=True, slots=True)
class ShadowLayout:
    """Where everything lies in the shadow memory, in bytes from its beginning.

    The first ``readable`` bytes are the device's to read (descriptors,
    available ring, commands), the rest up to ``size`` its to write (used
    ring, answers).  Both parts are whole pages.
    """

    num: int
    max_command: int

    @property
    def slots(self) -> int:
        """Commands that can be in flight."""
        return self.num // 2

    @property
    def commands(self) -> int:
        """Offset of the command buffers."""
        sizes = ring_sizes(self.num)
        return _round_up(sizes.descriptors + sizes.available, 64)

    @property
    def readable(self) -> int:
        """Size of the part the device reads, offset of the part it writes."""
        return _round_up(self.commands + self.slots * self.max_command, PAGE)

    @property
    def answers(self) -> int:
        """Offset of the answer buffers."""
        return _round_up(self.readable + ring_sizes(self.num).used, 64)

    @property
    def size(self) -> int:
        """Bytes of shadow memory."""
        return _round_up(self.answers + self.slots * ANSWER_SIZE, PAGE)

    def addresses(self, iova: int) -> RingAddresses:
        """Ring addresses for the device when the memory appears at ``iova``."""
        return RingAddresses(iova, iova + ring_sizes(self.num).descriptors, iova + self.readable)


class Answer(NamedTuple):
    """What the device gave back for one command.

    ``ack`` is the device's status byte, None where it wrote none; ``late``
    says that the command had expired.
    """

    token: int
    ack: int | None
    late: bool


class _Slot:
    __slots__ = ("deadline", "expired", "token")

    def __init__(self, token: int, deadline: float) -> None:
        self.token = token
        self.deadline = deadline
        self.expired = False


class ShadowQueue:
    """A ring in ``memory`` that the device sees at ``iova``.

    ``memory`` has ``layout.size`` bytes; the ring in it begins anew.  Tokens
    are the caller's names for commands, deadlines are on the caller's clock.
    """

    def __init__(
        self, layout: ShadowLayout, memory: memoryview, iova: int, fence: Callable[[], None]
    ) -> None:
        sizes = ring_sizes(layout.num)
        memory[: sizes.descriptors + sizes.available] = bytes(sizes.descriptors + sizes.available)
        memory[layout.readable : layout.readable + sizes.used] = bytes(sizes.used)
        self._ring = SplitRing(
            layout.num,
            memory[: sizes.descriptors],
            memory[sizes.descriptors : sizes.descriptors + sizes.available],
            memory[layout.readable : layout.readable + sizes.used],
        )
        self._layout = layout
        self._commands = layout.commands
        self._answers = layout.answers
        self._memory = memory
        self._iova = iova
        self._fence = fence
        self._next_available = 0
        self._published = 0
        self._next_used = 0
        self._free = deque(range(layout.slots))
        self._in_flight: dict[int, _Slot] = {}
        self._faults: list[tuple[str, str]] = []
        #: set when the used index cannot be followed any more; only a device reset mends it
        self.broken = False
        for slot in range(layout.slots):
            answer = iova + self._answers + slot * ANSWER_SIZE
            self._ring.put_descriptor(2 * slot + 1, Descriptor(answer, ANSWER_SIZE, DESC_WRITE, 0))

    @property
    def slots(self) -> int:
        """Commands that can be in flight at the most."""
        return self._layout.slots

    @property
    def free(self) -> int:
        """Slots that can take a command now."""
        return 0 if self.broken else len(self._free)

    @property
    def in_flight(self) -> int:
        """Commands the device has and whose deadline has not passed."""
        return sum(not slot.expired for slot in self._in_flight.values())

    @property
    def quarantined(self) -> int:
        """Commands that expired and were never given back."""
        return sum(slot.expired for slot in self._in_flight.values())

    @property
    def deadline(self) -> float | None:
        """When the next command expires."""
        return min((slot.deadline for slot in self._in_flight.values() if not slot.expired), default=None)

    def submit(self, token: int, command: bytes, deadline: float) -> None:
        """Put a command (at most ``layout.max_command`` bytes) in a free slot; ``publish`` shows it."""
        memory = self._memory
        slot = self._free.popleft()
        offset = self._commands + slot * self._layout.max_command
        memory[offset : offset + len(command)] = command
        memory[self._answers + slot * ANSWER_SIZE] = UNWRITTEN
        self._ring.put_descriptor(
            2 * slot, Descriptor(self._iova + offset, len(command), DESC_NEXT, 2 * slot + 1)
        )
        self._ring.put_available(self._next_available, 2 * slot)
        self._next_available = (self._next_available + 1) & 0xFFFF
        self._in_flight[slot] = _Slot(token, deadline)

    def publish(self) -> bool:
        """Let the device see every submitted command; whether there was one and a kick is due."""
        if self._published == self._next_available:
            return False
        # release: pairs with the device's barrier between available_index and the entries
        self._fence()
        self._ring.available_index = self._published = self._next_available
        return True

    def reap(self) -> list[Answer]:
        """Everything the device gave back since the last call, in its order."""
        ring = self._ring
        pending = (ring.used_index - self._next_used) & 0xFFFF
        if not pending or self.broken:
            return []
        if pending > ring.num:
            self.broken = True
            self._faults.append(("used.index", f"{pending} elements in a ring of {ring.num}"))
            return []
        # acquire: pairs with the device's barrier between its elements and used_index
        self._fence()
        answers = []
        for _ in range(pending):
            head, written = ring.used_element(self._next_used)
            self._next_used = (self._next_used + 1) & 0xFFFF
            slot = self._in_flight.pop(head >> 1, None) if not head & 1 else None
            if slot is None:
                self._faults.append(("used.id", f"descriptor {head} is not in flight"))
                continue
            self._free.append(head >> 1)
            answers.append(Answer(slot.token, self._ack(head >> 1, written), slot.expired))
        return answers

    def expire(self, now: float) -> list[int]:
        """Commands whose deadline passed, oldest first; their slots are quarantined."""
        expired = []
        for slot in self._in_flight.values():
            if not slot.expired and slot.deadline <= now:
                slot.expired = True
                expired.append(slot.token)
        return expired

    def take_faults(self) -> list[tuple[str, str]]:
        """(reason, detail) of each breach of the virtqueue protocol by the device since the last call."""
        faults, self._faults = self._faults, []
        return faults

    def _ack(self, slot: int, written: int) -> int | None:
        if not 1 <= written <= ANSWER_SIZE:
            self._faults.append(("used.length", f"{written} bytes written of {ANSWER_SIZE}"))
            return None
        ack = self._memory[self._answers + slot * ANSWER_SIZE]
        if ack == UNWRITTEN:
            self._faults.append(("used.no_ack", "given back with its status byte untouched"))
            return None
        return ack


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
