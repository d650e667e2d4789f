"""What random front-ends say: the orders of real ones, changed at random.

There is no coverage feedback: the mutations know the protocol's structure
instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from cvqd.testing.driver import GuestMemory
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.steps import GuestSetup, Step
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.net_control import MacAddrSet, RxMode, RxModeSet, VqPairsSet
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_user import FLAG_NEED_REPLY, HEADER, MAX_PAYLOAD, FrontRequest
from cvqd.wire.vhost_user_payloads import RegionDescription
from cvqd.wire.virtio import Status
from kit.named_descriptors import KINDS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from cvqd.testing.sequences import Order, Sequence

#: messages after which a front-end has said enough
LONGEST: Final = 250
R = FrontRequest
EDGES: Final = (0, 1, 2, 3, 5, 0x7F, 0xFF, 0xFFFF, 0x1_0000, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
COMMANDS: Final = [
    command.encode()
    for command in (
        MacAddrSet(bytes.fromhex("525400aa0001")),
        RxModeSet(RxMode.PROMISC, 1),
        VqPairsSet(2),
        VqPairsSet(1),
    )
]
Line = tuple[str, ...]


class Guest:
    """Memory and rings behind a block's front-ends; what they point at the front-ends decide."""

    def __init__(self, features: int, pairs: int) -> None:
        self.features = features
        self.memory = GuestMemory(1 << 20)
        self.driver = NetDriver(self.memory, pairs, 64, ring_format=RingFormat.of(features))
        self._at = self.memory.allocate(64)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.close()
        self.memory.close()

    def setup(self) -> GuestSetup:
        """As a front-end would hand it over."""
        return self.driver.setup(self.features)

    def kick(self, index: int, number: int) -> None:
        """Put a command into the control queue, if there is room, and ring."""
        control = self.driver.control
        assert control is not None
        if index == control.index and control._played.free > 4 and self.memory.size - self._spent > 8192:
            self.driver.post_command(COMMANDS[number % len(COMMANDS)])
        self.driver.queues[index].notify()

    def restart(self) -> None:
        """Rings that were never used, or look as if."""
        for queue in self.driver.queues:
            queue.restart()

    @property
    def _spent(self) -> int:
        return self.memory._next


def _played(steps: Sequence, word: int) -> list[Step]:
    found: list[Step] = []
    reply: bytes | None = None
    while True:
        try:
            step = steps.send(reply)
        except StopIteration:
            return found
        found.append(step)
        answers = {
            R.GET_PROTOCOL_FEATURES: payloads.encode_u64(word),
            R.GET_STATUS: payloads.encode_u64(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK),
        }
        reply = answers.get(step.request)


class Writer:
    """Makes one session's lines."""

    def __init__(self, roll: random.Random, guest: Guest, order: Order, word: int) -> None:
        self._roll = roll
        self._guest = guest
        self._names = {guest.memory.fileno(): "guest", -3: "pipe-out", -4: "pipe-in"}
        for queue in guest.driver.queues:
            self._names |= {queue.kick: f"kick:{queue.index}", queue.call: f"call:{queue.index}"}
        setup = guest.setup()
        channel = roll.choice((None, "socket", "pipe-out", "hung-up"))
        if channel is not None:
            self._names[-2] = channel
            setup = setup._replace(channel=-2)
        #: of a whole life
        self._connect = _played(order.connect(setup), word)
        self._start = _played(order.start(setup), word)
        self._stop = _played(order.stop(setup), word)

    def lines(self) -> list[Line]:
        """A session; how much of it is wrong varies from one to the next."""
        roll = self._roll
        steps = list(self._connect)
        for _ in range(roll.randrange(1, 4)):
            steps += self._start
            steps += [None, None, None] * roll.randrange(1, 4)  # type: ignore[list-item]
            if roll.random() < 0.7:
                steps += self._stop
        self._shuffle(steps)
        rate = roll.choice((0.0, 0.005, 0.02, 0.1))
        lines: list[Line] = []
        for step in steps[:LONGEST]:
            if step is None:
                lines.append(("kick", str(roll.randrange(len(self._guest.driver.queues)))))
                continue
            number, flags, payload = int(step.request), 1 | FLAG_NEED_REPLY * step.need_reply, step.payload
            names = [self._names[fd] for fd in step.descriptors]
            data = HEADER.pack(number, flags, len(payload)) + payload
            if roll.random() < rate:
                data, names = roll.choice(_MESSAGE)(roll, data, names)
            lines.append(("say", data.hex(), *names))
            if roll.random() < 0.05:
                lines.append(("read",))
            if roll.random() < rate / 5:
                lines.append(
                    ("scribble", str(roll.randrange(0x4000)), roll.randbytes(roll.randrange(1, 40)).hex())
                )
        return lines

    def _shuffle(self, steps: list[Any]) -> None:
        roll = self._roll
        for _ in range(roll.choice((0, 0, 0, 1, 2, 5, 20))):
            at = roll.randrange(len(steps))
            match roll.randrange(4):
                case 0:
                    del steps[at]
                case 1:
                    steps.insert(at, roll.choice(steps))
                case 2:
                    steps.insert(roll.randrange(len(steps)), steps.pop(at))
                case 3:
                    steps[at:at] = [
                        roll.choice(
                            (
                                Step(R.RESET_DEVICE),
                                Step(R.GET_FEATURES),
                                Step(R.SET_STATUS, payloads.encode_u64(roll.choice((0, 3, 11, 15, 0x80)))),
                                Step(R.SET_VRING_ENABLE, payloads.VringState(at % 6, at & 1).encode()),
                                Step(R.GET_VRING_BASE, payloads.VringState(at % 6, 0).encode()),
                                Step(R.NET_SET_MTU, payloads.encode_u64(roll.choice((67, 68, 1500, 1501)))),
                                Step(R.GET_CONFIG, payloads.ConfigAccess(at, 0, bytes(at % 32 + 1)).encode()),
                                Step(
                                    R.SET_DEVICE_STATE_FD,
                                    payloads.encode_device_state(at & 1),
                                    (-3 - (at & 1),),
                                ),
                                Step(R.CHECK_DEVICE_STATE),
                            )
                        )
                    ]


Spoilt = tuple[bytes, list[str]]


def _content(roll: random.Random, data: bytes, names: list[str]) -> Spoilt:
    """Something else that this request could say, and that somebody might even mean."""
    number, flags, _ = HEADER.unpack(data[: HEADER.size])
    old = data[HEADER.size :]
    index, address = (
        roll.randrange(6),
        roll.choice((0x7F00_0000_0000, 0x4000_0000)) + 8 * roll.randrange(2**15),
    )
    match number:
        case R.SET_FEATURES | R.SET_PROTOCOL_FEATURES | R.SET_STATUS | R.NET_SET_MTU:
            word = int.from_bytes(old[:8], "little")
            few = word & ~(1 << roll.randrange(64)) & ~(1 << roll.randrange(20))
            payload = payloads.encode_u64(roll.choice((few, word ^ 1 << roll.randrange(64), 0, 7, 15, 1500)))
        case R.SET_VRING_NUM | R.SET_VRING_BASE | R.GET_VRING_BASE | R.SET_VRING_ENABLE | R.VRING_KICK:
            num = roll.choice((0, 1, 1, 2, 8, 64, 128, 256, 1 << 15, 0x8000_8000, 0xFFFF, roll.randrange(70)))
            payload = payloads.VringState(index, num).encode()
        case R.SET_VRING_ADDR:
            parts = (address + roll.choice((0, 0, 4, 1)) + 16 * roll.randrange(512) for _ in range(3))
            payload = payloads.VringAddress(index, roll.choice((0, 0, 1)), RingAddresses(*parts)).encode()
        case R.SET_VRING_KICK | R.SET_VRING_CALL | R.SET_VRING_ERR:
            present = roll.random() < 0.5
            names = [roll.choice(("eventfd", f"kick:{index % 5}", "pipe-out", "socket"))] if present else []
            payload = payloads.VringDescriptor(index, present=present).encode()
        case R.SET_MEM_TABLE | R.ADD_MEM_REG | R.REM_MEM_REG:
            count = roll.choice((1, 1, 1, 2, 3, 8))
            names = [roll.choice(("guest", "guest", "memory:4194304", "memory:4096")) for _ in range(count)]
            regions = tuple(_region(roll, place) for place in range(count))
            if number == R.SET_MEM_TABLE:
                payload = payloads.encode_memory_table(regions)
            else:
                payload, names = regions[0].encode_single(), names[:1] if number == R.ADD_MEM_REG else []
        case _:
            payload = old
    return HEADER.pack(number, flags, len(payload)) + payload, names


def _region(roll: random.Random, place: int) -> RegionDescription:
    start = 0x4000_0000 + roll.choice((0, 0, 0x1000, 0x8000, 0x10_0000)) * place
    size = roll.choice((0x1000, 0x8000, 0x10_0000, 0x10_0000, 0))
    return RegionDescription(
        start, size, 0x7F00_0000_0000 + roll.choice((0, start)), roll.choice((0, 0, 0x1000))
    )


def _flip(roll: random.Random, data: bytes, names: list[str]) -> Spoilt:
    at = roll.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << roll.randrange(8),)) + data[at + 1 :], names


def _field(roll: random.Random, data: bytes, names: list[str]) -> Spoilt:
    """One aligned number of the payload, or the request's, becomes another."""
    size = roll.choice((4, 8))
    at = roll.choice((0, *range(HEADER.size, len(data), 4)))
    old = int.from_bytes(data[at : at + size], "little")
    new = roll.choice(
        (
            *EDGES,
            old + 1,
            old - 1,
            old ^ 1 << roll.randrange(64),
            old + 4096,
            roll.getrandbits(64),
            roll.randrange(46),
        )
    )
    return data[:at] + (new % (1 << 8 * size)).to_bytes(size, "little") + data[at + size :], names


def _resize(roll: random.Random, data: bytes, names: list[str]) -> Spoilt:
    """The payload is longer or shorter, and its length says so."""
    payload = data[HEADER.size :]
    payload = payload[: roll.randrange(len(payload) + 1)] + roll.randbytes(roll.choice((0, 0, 1, 8, 40, 300)))
    number, flags, _ = HEADER.unpack(data[: HEADER.size])
    return HEADER.pack(number, flags, len(payload)) + payload, names


def _lie(roll: random.Random, data: bytes, names: list[str]) -> Spoilt:
    """Length or flags that are not the message's."""
    number, flags, size = HEADER.unpack(data[: HEADER.size])
    size = roll.choice((size + roll.randrange(1, 64), size // 2, 0, MAX_PAYLOAD, MAX_PAYLOAD + 1, 2**32 - 1))
    flags = roll.choice((flags, flags, 0, 2, 5, 9, 13, roll.getrandbits(32)))
    return HEADER.pack(number, flags, size) + data[HEADER.size :], names


def _cut(roll: random.Random, data: bytes, names: list[str]) -> Spoilt:
    return data[: roll.randrange(1, len(data))], names


def _noise(roll: random.Random, _: bytes, names: list[str]) -> Spoilt:
    return roll.randbytes(roll.randrange(1, 100)), names


def _other_files(roll: random.Random, data: bytes, _: list[str]) -> Spoilt:
    return data, [roll.choice(KINDS) for _ in range(roll.choice((0, 1, 1, 1, 2, 3, 8, 9, 33, 64, 65, 100)))]


def _another_file(roll: random.Random, data: bytes, names: list[str]) -> Spoilt:
    return data, [roll.choice(KINDS) for _ in names or [""]]


_MESSAGE: Final[list[Callable[[random.Random, bytes, list[str]], Spoilt]]] = [
    *[_content] * 12,
    *[_field] * 4,
    _flip,
    _resize,
    _lie,
    _cut,
    _noise,
    _other_files,
    _another_file,
    _another_file,
]
