"""The driver side of the shadow control queue: submit, reap, expire.

Every command has a slot of its own: two descriptors, a command buffer that the
device reads and an answer buffer that it writes.  The slot of an expired
command stays *quarantined* (in flight, its buffers untouched) until the device
gives it back, so a late answer cannot be mistaken for another.  Slots are
reused in turn, as late as possible: a device that completes an id twice then
names one that is not in flight.  The few commands that do not fit a slot
(mostly address tables) also take one of a few long buffers.  Not every slot has
one because a device that pins memory may need a mapping for each page, of which
there can be some 2000.

The ring has the format that was negotiated for all rings of the device.  Calls
are never suppressed: there are few answers, and each is waited for.

The memory is private to the daemon and the device.  The device is not trusted
to follow the virtqueue protocol.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.core.queues.driver_ring import driver_ring
from cvqd.core.queues.ring_error import RingError
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.split_ring import DESC_WRITE, RingAddresses

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE: Final = 4096
#: room for every command but the largest tables: a table of 64 addresses, RSS with 128 entries
SHORT_COMMAND: Final = 512
#: longer commands that can be in flight at a time
LONG_BUFFERS: Final = 4
#: room for an ack and a short result; the results of DEVICE_STATS need more
SHORT_ANSWER: Final = 64
#: what the ack byte holds until the device writes it; no status of virtio 1.3 §5.1.6.5 has this value
UNWRITTEN: Final = 0xFF

_SPLIT: Final = RingFormat()
_PACKED: Final = RingFormat(packed=True)


@dataclass(frozen=True, slots=True)
class ShadowLayout:
    """Where everything lies in the shadow memory, in bytes from its beginning.

    The device may read the first ``readable`` bytes (a split ring's descriptors and available ring, a
    packed ring's driver event area; commands) and may write the rest up to ``size`` (used ring, or
    descriptor ring and device event area; answers).  Both parts are whole pages, and neither they nor
    the buffers depend on the ring's format.
    """

    num: int
    max_command: int
    max_answer: int = SHORT_ANSWER

    @property
    def slots(self) -> int:
        """Commands that can be in flight."""
        return self.num // 2

    @property
    def commands(self) -> int:
        """Offset of the command buffers."""
        return _round_up(sum(_SPLIT.sizes(self.num)[:2]), 64)

    @property
    def short_command(self) -> int:
        """Bytes of a slot's own command buffer."""
        return min(self.max_command, SHORT_COMMAND)

    @property
    def long_commands(self) -> int:
        """Offset of the buffers for commands that do not fit a slot's own."""
        return self.commands + self.slots * self.short_command

    @property
    def long_buffers(self) -> int:
        """Number of those buffers."""
        return min(LONG_BUFFERS, self.slots) if self.max_command > self.short_command else 0

    @property
    def readable(self) -> int:
        """Size of the part that the device reads, and offset of the part that it writes."""
        return _round_up(self.long_commands + self.long_buffers * self.max_command, PAGE)

    @property
    def answers(self) -> int:
        """Offset of the answer buffers."""
        return _round_up(self.readable + max(_SPLIT.sizes(self.num).used, sum(_PACKED.sizes(self.num))), 64)

    @property
    def size(self) -> int:
        """Bytes of shadow memory."""
        return _round_up(self.answers + self.slots * self.max_answer, PAGE)

    def parts(self, *, packed: bool) -> RingAddresses:
        """Offsets of the three parts of the ring."""
        if packed:
            descriptors = self.readable
            return RingAddresses(descriptors, 0, descriptors + _PACKED.sizes(self.num).descriptors)
        return RingAddresses(0, _SPLIT.sizes(self.num).descriptors, self.readable)

    def addresses(self, iova: int, *, packed: bool = False) -> RingAddresses:
        """Ring addresses for the device when the memory appears at ``iova``."""
        return RingAddresses(*(iova + offset for offset in self.parts(packed=packed)))


class Answer(NamedTuple):
    """What the device gave back for one command.

    ``ack`` is the device's status byte, None if it wrote none; ``late``
    says that the command had expired; ``result`` is what follows the ack.
    """

    token: int
    ack: int | None
    late: bool
    result: bytes = b""


class _InFlight:
    __slots__ = ("answer", "deadline", "expired", "long", "slot", "token")

    def __init__(self, token: int, slot: int, long: int | None, deadline: float, answer: int) -> None:
        self.token = token
        self.slot = slot
        #: index of the long buffer that holds the command, None if it fits the slot's own
        self.long = long
        self.deadline = deadline
        self.answer = answer
        self.expired = False


class ShadowQueue:
    """A ring in ``memory`` that the device sees at ``iova``.

    ``memory`` has ``layout.size`` bytes; the ring in it is cleared.  Tokens
    are the caller's names for commands, deadlines are on the caller's clock.
    See ``driver_ring.driver_ring`` for ``fence``.
    """

    def __init__(
        self,
        layout: ShadowLayout,
        memory: memoryview,
        iova: int,
        fence: Callable[[], None],
        ring_format: RingFormat = _SPLIT,
    ) -> None:
        sizes = ring_format.sizes(layout.num)
        windows = []
        for start, size in zip(layout.parts(packed=ring_format.packed), sizes, strict=True):
            windows.append(memory[start : start + size])
            windows[-1][:] = bytes(size)
        # a packed ring's driver event area, left at zero, asks for every call even with EVENT_IDX
        self._ring = driver_ring(
            ring_format.open(layout.num, windows),
            fence,
            event_index=ring_format.event_index and not ring_format.packed,
        )
        self._layout = layout
        self._commands = layout.commands
        self._short = layout.short_command
        self._answers = layout.answers
        self._memory = memory
        self._iova = iova
        self._free = deque(range(layout.slots))
        self._long = deque(range(layout.long_buffers))
        self._in_flight: dict[int, _InFlight] = {}
        self._faults: list[tuple[str, str]] = []
        #: set when the device's answers cannot be followed any more; only a device reset helps
        self.broken = False

    @property
    def slots(self) -> int:
        """Most commands that can be in flight."""
        return self._layout.slots

    @property
    def max_command(self) -> int:
        """Bytes of the longest command that can be submitted."""
        return self._layout.max_command

    def takes(self, size: int) -> bool:
        """Whether there is room for a command of ``size`` bytes (at most ``max_command``) now."""
        return bool(self._free and (size <= self._short or self._long)) and not self.broken

    @property
    def in_flight(self) -> int:
        """Number of commands that the device has and whose deadline has not passed."""
        return sum(not each.expired for each in self._in_flight.values())

    @property
    def quarantined(self) -> int:
        """Number of expired commands that the device has not given back."""
        return sum(each.expired for each in self._in_flight.values())

    @property
    def deadline(self) -> float | None:
        """When the next command expires."""
        return min((each.deadline for each in self._in_flight.values() if not each.expired), default=None)

    def submit(self, token: int, command: bytes, deadline: float, answer: int = 1) -> None:
        """Put a command for which ``takes`` was True into a free slot; ``publish`` makes it visible.

        The device may write ``answer`` bytes, including the ack; at most ``layout.max_answer``.
        """
        memory = self._memory
        slot = self._free.popleft()
        long = None
        if len(command) <= self._short:
            at = self._commands + slot * self._short
        else:
            long = self._long.popleft()
            at = self._layout.long_commands + long * self._layout.max_command
        memory[at : at + len(command)] = command
        answer_at = self._answers + slot * self._layout.max_answer
        memory[answer_at] = UNWRITTEN
        buffer = ((self._iova + at, len(command), 0), (self._iova + answer_at, answer, DESC_WRITE))
        self._in_flight[self._ring.offer(buffer)] = _InFlight(token, slot, long, deadline, answer)

    def publish(self) -> bool:
        """Let the device see every submitted command; True if there was one, so that a kick is due."""
        return self._ring.publish()

    def reap(self) -> list[Answer]:
        """Everything that the device gave back since the last call, in that order."""
        answers: list[Answer] = []
        while not self.broken:
            try:
                returned = self._ring.take()
            except RingError as fault:
                self._faults.append((fault.reason, fault.detail))
                self.broken = fault.fatal
                continue
            if returned is None:
                break
            answers.append(self._answer(*returned))
        return answers

    def _answer(self, id_: int, written: int) -> Answer:
        command = self._in_flight.pop(id_)
        self._free.append(command.slot)
        if command.long is not None:
            self._long.append(command.long)
        ack, result = None, b""
        if not 1 <= written <= command.answer:
            self._faults.append(("used.length", f"{written} bytes written of {command.answer}"))
        else:
            at = self._answers + command.slot * self._layout.max_answer
            ack = self._memory[at]
            if ack == UNWRITTEN:
                self._faults.append(("used.no_ack", "given back with its status byte untouched"))
                ack = None
            elif written > 1:
                result = bytes(self._memory[at + 1 : at + written])
        return Answer(command.token, ack, command.expired, result)

    def expire(self, now: float) -> list[int]:
        """Tokens of commands that expire now, oldest first; their slots are quarantined."""
        expired = []
        for command in self._in_flight.values():
            if not command.expired and command.deadline <= now:
                command.expired = True
                expired.append(command.token)
        return expired

    def take_faults(self) -> list[tuple[str, str]]:
        """(reason, detail) of each breach of the virtqueue protocol by the device since the last call."""
        faults, self._faults = self._faults, []
        return faults


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
