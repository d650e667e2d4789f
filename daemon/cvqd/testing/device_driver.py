"""A driver directly on a vDPA device, with no front-end and no daemon in between.

It plays the guest towards the simulator or the kernel's character device, for
the contract tests and as the baseline of the benchmark: the order of calls that
brings a device up, then commands and frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from cvqd.testing.arena import Arena
from cvqd.testing.driver_ring import Buffer, DriverRing
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.vhost_vdpa import BatchMark, Unmap
from cvqd.wire.virtio import Feature, Status, control_queue_index, mask_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from cvqd.core.device import VdpaDevice

#: an empty ``struct virtio_net_hdr_v1``
NET_HEADER: Final = bytes(12)
#: an empty ``struct virtio_net_hdr_v1_hash``, with HASH_REPORT
HASH_HEADER: Final = bytes(20)
#: what a driver without hash reports takes
USUAL_FEATURES: Final = 2**64 - 1 & ~Feature.HASH_REPORT.mask

_RINGS: Final = mask_of(Feature.RING_PACKED, Feature.INDIRECT_DESC, Feature.EVENT_IDX)
_READY: Final = Status.ACKNOWLEDGE | Status.DRIVER


class DeviceDriver:
    """A network driver on a device: ``pairs`` queue pairs and a control ring in an address space of its own.

    ``data`` is mapped in address space 0; ``control`` in 1 where the device
    has one and ``isolated`` is left true, else also in 0.  ``rings`` are the ring features it takes where
    offered (RING_PACKED, INDIRECT_DESC, EVENT_IDX); none make a plain split ring.
    """

    def __init__(
        self,
        device: VdpaDevice,
        *,
        pairs: int = 1,
        max_pairs: int = 1,
        num: int = 64,
        isolated: bool = True,
        rings: int = 0,
    ) -> None:
        self.device: Final = device
        self.data: Final = Arena()
        self.control: Final = Arena(iova=0x4000_0000)
        self.features = 0
        self._shown: list[tuple[int, Arena]] = []
        self._isolated = isolated
        self._rings = rings
        self._num = num
        self._pairs = pairs
        self._max_pairs = max_pairs
        self.receive: list[DriverRing] = []
        self.transmit: list[DriverRing] = []
        self.commands: DriverRing | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def rings(self) -> list[DriverRing]:
        """Every ring that was set up."""
        return [*self.receive, *self.transmit, *([self.commands] if self.commands else [])]

    async def negotiate(self, features: int, backend: int | None = None) -> None:
        """Reset and agree on features, virtio 1.3 §3.1.1 up to step 6; what the device lacks is left out."""
        device = self.device
        offered = await device.get_backend_features()
        await device.set_backend_features(offered if backend is None else backend)
        await device.set_status(0)
        await device.set_status(Status.ACKNOWLEDGE)
        await device.set_status(_READY)
        self.features = (features & ~_RINGS | self._rings) & await device.get_features()
        await device.set_features(self.features)
        await device.set_status(_READY | Status.FEATURES_OK)

    async def map(self) -> None:
        """Show both arenas to the device and give the control ring's group its own address space."""
        device = self.device
        if self._isolated and await device.get_as_num() > 1:
            await self._show(0, self.data)
            await self._show(1, self.control)
            await device.set_group_asid(await device.get_vring_group(self.control_index), 1)
        else:
            await self._show(0, self.data, self.control)

    async def _show(self, asid: int, *arenas: Arena) -> None:
        mappings = (arena.mapping() for arena in arenas)
        await self.device.iotlb(asid, [BatchMark.BEGIN, *mappings, BatchMark.END])
        self._shown += [(asid, arena) for arena in arenas]

    @property
    def header(self) -> bytes:
        """An empty packet header."""
        return HASH_HEADER if self.features & Feature.HASH_REPORT.mask else NET_HEADER

    @property
    def control_index(self) -> int:
        """Index of the control ring for the negotiated features."""
        return control_queue_index(self.features, self._max_pairs)

    def build_rings(self) -> None:
        """Make the driver's side of all rings, in the format that was negotiated."""
        ring_format = RingFormat.of(self.features)
        self.receive = [
            DriverRing(self.data, 2 * pair, self._num, ring_format) for pair in range(self._pairs)
        ]
        self.transmit = [
            DriverRing(self.data, 2 * pair + 1, self._num, ring_format) for pair in range(self._pairs)
        ]
        if self.features & Feature.CTRL_VQ.mask:
            self.commands = DriverRing(self.control, self.control_index, self._num, ring_format)

    async def bind(self, rings: Iterable[DriverRing] | None = None) -> None:
        """Give the device sizes, addresses, indices and eventfds of the rings."""
        device = self.device
        for ring in self.rings if rings is None else rings:
            await device.set_vring_num(ring.index, ring.num)
            await device.set_vring_addr(ring.index, ring.addresses)
            await device.set_vring_base(ring.index, ring.format.initial_base)
            await device.set_vring_call(ring.index, ring.call_fd)
            await device.set_vring_kick(ring.index, ring.kick_fd)

    async def enable(self) -> None:
        """Enable all rings and set DRIVER_OK."""
        for ring in self.rings:
            await self.device.set_vring_enable(ring.index, enable=True)
        await self.device.set_status(_READY | Status.FEATURES_OK | Status.DRIVER_OK)

    async def start(self, features: int = USUAL_FEATURES, backend: int | None = None) -> None:
        """Bring the device up."""
        await self.negotiate(features, backend)
        await self.map()
        self.build_rings()
        await self.bind()
        await self.enable()

    async def stop(self) -> None:
        """Unbind, reset, unmap and close everything; ``start`` may follow."""
        device = self.device
        for ring in self.rings:
            await device.set_vring_kick(ring.index, -1)
            await device.set_vring_call(ring.index, -1)
        await device.set_status(0)
        for asid, arena in self._shown:
            await device.iotlb(asid, [Unmap(arena.iova, arena.size)])
        self._shown.clear()
        for ring in self.rings:
            ring.close()
        self.receive, self.transmit, self.commands = [], [], None

    # commands

    def submit(self, command: bytes) -> int:
        """Publish a command and kick; the address of its ack byte, which holds 0xff until answered."""
        assert self.commands is not None, "CTRL_VQ was not negotiated"
        ack = self.control.put(b"\xff")
        self.commands.add([Buffer(self.control.put(command), len(command)), Buffer(ack, 1, writable=True)])
        self.commands.kick()
        return ack

    async def command(self, command: bytes) -> int:
        """Ack byte of a command, after the call."""
        ack = self.submit(command)
        assert self.commands is not None
        await self.commands.wait()
        return self.control.view(ack, 1)[0]

    async def ask(self, command: bytes, room: int = 1024) -> bytes:
        """Ack and result of a command that has one."""
        assert self.commands is not None
        answer = self.control.put(b"\xff" * room)
        data = Buffer(self.control.put(command), len(command))
        self.commands.add([data, Buffer(answer, room, writable=True)])
        self.commands.kick()
        _, written = await self.commands.wait()
        return bytes(self.control.view(answer, written))

    # frames

    def fill(self, pair: int = 0, buffers: int = 8, size: int = 2048) -> list[int]:
        """Post receive buffers and kick; their addresses."""
        ring = self.receive[pair]
        posted = [self.data.allocate(size) for _ in range(buffers)]
        for iova in posted:
            ring.add([Buffer(iova, size, writable=True)])
        ring.kick()
        return posted

    async def send(self, frame: bytes, pair: int = 0) -> None:
        """Transmit a frame and wait until the device is done with it."""
        ring = self.transmit[pair]
        packet = self.header + frame
        ring.add([Buffer(self.data.put(packet), len(packet))])
        ring.kick()
        await ring.wait()

    def received(self, pair: int = 0) -> list[bytes]:
        """Frames that have arrived since the last call, without their headers."""
        ring = self.receive[pair]
        frames = []
        while (element := ring.poll()) is not None:
            head, written = element
            iova = ring.buffer(head)
            frames.append(bytes(self.data.view(iova, written)[len(self.header) :]))
        return frames
