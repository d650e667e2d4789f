"""The shipped network driver: N queue pairs and a control queue in one guest memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Self

from cvqd.testing.driver import DriverQueue, Segment
from cvqd.testing.steps import GuestSetup
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.vhost_user import DescriptorKind
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from types import TracebackType

    from cvqd.testing.driver import GuestMemory

_SPLIT: Final = RingFormat()

#: bytes of struct virtio_net_hdr with VERSION_1, virtio 1.3 §5.1.6
NET_HEADER_SIZE: Final = 12
#: and with HASH_REPORT
HASH_HEADER_SIZE: Final = 20

#: Bytes of the command buffer; longer commands get a buffer of their own for good.
_COMMAND_SIZE: Final = 2048

#: Bytes of a frame's buffer: an Ethernet frame of 1514 bytes, a VLAN tag and the header fit.
_FRAME_SIZE: Final = 2048

#: What stands in the ack byte until the device has written it: neither OK nor ERR.
UNANSWERED: Final = 0xFF


class NetDriver:
    """Rings 2i receive, 2i+1 transmit, 2N control, where N is ``pairs``; one task uses it.

    N is what the *rings* are laid out for, that is the device's maximum if MQ
    is negotiated.  Receive rings are empty until ``fill``.
    """

    def __init__(
        self,
        memory: GuestMemory,
        pairs: int = 1,
        num: int = 256,
        *,
        control: bool = True,
        call_kind: DescriptorKind = DescriptorKind.EVENTFD,
        ring_format: RingFormat = _SPLIT,
    ) -> None:
        self.memory = memory
        self.pairs = pairs
        self.format = ring_format
        count = 2 * pairs + control
        queues = [DriverQueue(memory, index, num, call_kind, ring_format) for index in range(count)]
        self.queues: Final = tuple(queues)
        self.receive: Final = self.queues[0 : 2 * pairs : 2]
        self.transmit: Final = self.queues[1 : 2 * pairs : 2]
        self.control: Final = self.queues[2 * pairs] if control else None
        #: bytes before each frame in a ring
        self.header = NET_HEADER_SIZE
        self._buffers: dict[tuple[int, int], tuple[int, int]] = {}
        self._spare: list[tuple[int, int]] = []
        self._sent: list[tuple[int, int]] = []
        self._commands: dict[int, tuple[int, int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def setup(self, features: int) -> GuestSetup:
        """For ``testing.sequences``; ``features`` without vhost-user's bit 30."""
        self.header = HASH_HEADER_SIZE if features & Feature.HASH_REPORT.mask else NET_HEADER_SIZE
        negotiated = RingFormat.of(features)
        if (negotiated.packed, negotiated.event_index) != (self.format.packed, self.format.event_index):
            raise ValueError(f"a driver of {self.format} cannot take {negotiated}")
        region = self.memory.description, self.memory.fileno()
        return GuestSetup(features, (region,), tuple(queue.setup() for queue in self.queues))

    # control

    def post_command(self, command: bytes, answer: int = 1) -> int:
        """Publish a command as Linux lays it out (header, data, ack; a descriptor each); its head.

        The device may write ``answer`` bytes.  Does not notify: several may go with one ``control.notify()``.
        """
        assert self.control is not None, "this driver has no control queue"
        address, size = self._command_buffer(len(command) + answer)
        self.memory.write(address, command)
        ack = address + size - answer
        self.memory.write(ack, bytes((UNANSWERED,)) * answer)
        parts = [Segment(address, len(command[:2])), Segment(address + 2, len(command[2:]))]
        head = self.control.add(
            [*(part for part in parts if part.length), Segment(ack, answer, writable=True)]
        )
        self._commands[head] = (address, size, answer)
        return head

    def _command_buffer(self, size: int) -> tuple[int, int]:
        if size > _COMMAND_SIZE:
            return self.memory.allocate(size), size
        if self._spare:
            return self._spare.pop()
        return self.memory.allocate(_COMMAND_SIZE), _COMMAND_SIZE

    def take_ack(self, head: int) -> int:
        """Ack byte of a command that was given back (``control.poll``); its buffer is used again."""
        return self.take_answer(head)[0]

    def take_answer(self, head: int, written: int | None = None) -> bytes:
        """What the device wrote, or all it could; the buffer is used again."""
        address, size, answer = self._commands.pop(head)
        found = bytes(self.memory.view(address + size - answer, answer))
        if size == _COMMAND_SIZE:
            self._spare.append((address, size))
        return found if written is None else found[:written]

    def command_spin(self, command: bytes, timeout: float = 5.0) -> int:
        """Ack byte of a command, spinning as Linux does; for a process of its own.  TimeoutError."""
        assert self.control is not None, "this driver has no control queue"
        head = self.post_command(command)
        self.control.notify_if_wanted()
        deadline = time.monotonic() + timeout
        while (used := self.control.poll()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer within {timeout} s")
        assert used.head == head, "another chain was given back"
        return self.take_ack(head)

    async def command(self, command: bytes) -> int:
        """Ack byte of a command, waiting for the call descriptor; one at a time."""
        assert self.control is not None, "this driver has no control queue"
        head = self.post_command(command)
        self.control.notify_if_wanted()
        used = await self.control.wait()
        assert used.head == head, "another chain was given back"
        return self.take_ack(head)

    async def ask(self, command: bytes, room: int = 1024) -> bytes:
        """Ack and result of a command that has one, in at most ``room`` bytes; one at a time."""
        assert self.control is not None, "this driver has no control queue"
        head = self.post_command(command, room)
        self.control.notify()
        used = await self.control.wait()
        assert used.head == head, "another chain was given back"
        return self.take_answer(head, used.written)

    # data

    def fill(self, pair: int = 0, buffers: int = 64, size: int = _FRAME_SIZE) -> None:
        """Post receive buffers and notify."""
        queue = self.receive[pair]
        for _ in range(buffers):
            self._post(queue, self.memory.allocate(size), size)
        queue.notify_if_wanted()

    def _post(self, queue: DriverQueue, address: int, size: int) -> None:
        head = queue.add([Segment(address, size, writable=True)])
        self._buffers[queue.index, head] = address, size

    def send_frame(self, frame: bytes, pair: int = 0) -> None:
        """Transmit one Ethernet frame, with a header of zeroes; buffers that came back are used again."""
        queue = self.transmit[pair]
        while (used := queue.poll()) is not None:
            self._sent.append(self._buffers.pop((queue.index, used.head)))
        length = self.header + len(frame)
        fitting = next((buffer for buffer in self._sent if buffer[1] >= length), None)
        if fitting is not None:
            self._sent.remove(fitting)
        address, size = fitting or (self.memory.allocate(max(length, _FRAME_SIZE)), max(length, _FRAME_SIZE))
        self.memory.write(address, bytes(self.header) + frame)
        head = queue.add([Segment(address, length)])
        self._buffers[queue.index, head] = address, size
        queue.notify_if_wanted()

    def received_frames(self, pair: int = 0) -> list[bytes]:
        """Frames that have arrived, without their headers; their buffers are posted again."""
        frames: list[bytes] = []
        while (frame := self._received(pair)) is not None:
            frames.append(frame)
        if frames:
            self.receive[pair].notify_if_wanted()
        return frames

    def _received(self, pair: int) -> bytes | None:
        queue = self.receive[pair]
        used = queue.poll()
        return None if used is None else self._take_frame(queue, used.head, used.written)

    def _take_frame(self, queue: DriverQueue, head: int, written: int) -> bytes:
        return self._take_packet(queue, head, written)[self.header :]

    def _take_packet(self, queue: DriverQueue, head: int, written: int) -> bytes:
        address, size = self._buffers.pop((queue.index, head))
        packet = bytes(self.memory.view(address, min(written, size)))
        self._post(queue, address, size)
        return packet

    def received_packets(self, pair: int = 0) -> list[bytes]:
        """As ``received_frames``, with their headers."""
        queue, packets = self.receive[pair], []
        while (used := queue.poll()) is not None:
            packets.append(self._take_packet(queue, used.head, used.written))
        if packets:
            queue.notify()
        return packets

    async def receive_frame(self, pair: int = 0) -> bytes:
        """Next frame, waiting for the call descriptor; its buffer is posted again."""
        queue = self.receive[pair]
        used = await queue.wait()
        frame = self._take_frame(queue, used.head, used.written)
        queue.notify_if_wanted()
        return frame

    def restart(self) -> None:
        """Begin anew after a reset: empty rings, indices 0, receive buffers forgotten."""
        for queue in self.queues:
            queue.restart()
        self._buffers.clear()
        self._commands.clear()

    def close(self) -> None:
        """Close all rings' descriptors; the memory is the caller's."""
        for queue in self.queues:
            queue.close()
