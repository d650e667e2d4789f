"""The shipped network driver: N queue pairs and a control queue in one guest memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cvqd.testing.driver import DriverQueue, GuestMemory
    from cvqd.testing.sequences import GuestSetup

#: bytes of struct virtio_net_hdr with VERSION_1, virtio 1.3 §5.1.6
NET_HEADER_SIZE = 12


class NetDriver:
    """Rings 2i receive, 2i+1 transmit, ``2 * pairs`` control; receive rings are filled by ``fill``."""

    def __init__(self, memory: GuestMemory, pairs: int = 1, num: int = 256, *, control: bool = True) -> None:
        self.memory = memory
        self.pairs = pairs
        self.receive: list[DriverQueue]
        self.transmit: list[DriverQueue]
        self.control: DriverQueue | None

    def setup(self, features: int) -> GuestSetup:
        """For ``testing.sequences``."""

    def command_spin(self, command: bytes, timeout: float = 5.0) -> int:
        """Ack byte of a control command, spinning as Linux does; for a process of its own. TimeoutError."""

    async def command(self, command: bytes) -> int:
        """Ack byte of a control command, waiting for the call descriptor."""

    def fill(self, pair: int = 0, buffers: int = 64, size: int = 2048) -> None:
        """Post receive buffers and notify."""

    def send_frame(self, frame: bytes, pair: int = 0) -> None:
        """Transmit one Ethernet frame (header of zeroes before it)."""

    def received_frames(self, pair: int = 0) -> list[bytes]:
        """Frames that have arrived, without their headers; their buffers are posted again."""

    async def receive_frame(self, pair: int = 0) -> bytes:
        """Next frame, waiting for the call descriptor."""

    def close(self) -> None:
        """Close all rings' descriptors; the memory is the caller's."""
