"""A driver's side of one ring, placed by hand: no daemon, no queue of ours in between.

What a test of the kernel needs and no more: one command at a time, addresses
as the test says them.
"""

from __future__ import annotations

import os
import select
import time

from cvqd.host import shared_memory
from cvqd.wire.split_ring import DESC_NEXT, DESC_WRITE, Descriptor, RingAddresses, SplitRing, ring_sizes
from cvqd.wire.vhost_vdpa import Access, Map
from cvqd.wire.virtio import Feature, Status

NUM = 16
PAGE = 4096
SIZE = 4 * PAGE
MAC_SET = b"\x01\x01"

FEATURES = (
    Feature.VERSION_1.mask
    | Feature.ACCESS_PLATFORM.mask
    | Feature.MAC.mask
    | Feature.CTRL_VQ.mask
    | Feature.CTRL_MAC_ADDR.mask
)
READY = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK


class DirectRing:
    """Sixteen descriptors and a page for buffers, which the device sees from ``base`` on."""

    def __init__(self, base: int) -> None:
        self.region = shared_memory.create("ring", SIZE)
        self.kick = os.eventfd(0)
        self.call = os.eventfd(0, os.EFD_NONBLOCK)
        self.move(base)
        sizes = ring_sizes(NUM)
        view = self.region.view
        self.ring = SplitRing(
            NUM,
            view[: sizes.descriptors],
            view[PAGE : PAGE + sizes.available],
            view[2 * PAGE : 2 * PAGE + sizes.used],
        )
        self._next = 0

    def move(self, base: int) -> None:
        """Say where the device finds the memory."""
        self.base = base
        self.addresses = RingAddresses(base, base + PAGE, base + 2 * PAGE)

    @property
    def mapping(self) -> Map:
        return Map(self.base, SIZE, self.region, 0, Access.READ_WRITE)

    async def attach(self, device, index: int) -> None:
        """Give the ring to the device and enable it; indices begin anew."""
        self._next = 0
        self.ring.available_index = 0
        self.ring.used_index = 0
        await device.set_vring_num(index, NUM)
        await device.set_vring_addr(index, self.addresses)
        await device.set_vring_base(index, 0)
        await device.set_vring_call(index, self.call)
        await device.set_vring_kick(index, self.kick)
        await device.set_vring_enable(index, enable=True)

    def command(self, request: bytes, timeout: float = 2.0) -> int | None:
        """Ack byte of one control command; None if the device does not answer in time."""
        view = self.region.view
        view[3 * PAGE : 3 * PAGE + len(request)] = request
        view[3 * PAGE + 1024] = 0xFF
        return self.chain(
            [
                Descriptor(self.base + 3 * PAGE, len(request), DESC_NEXT, 1),
                Descriptor(self.base + 3 * PAGE + 1024, 1, DESC_WRITE, 0),
            ],
            timeout,
        )

    def chain(self, descriptors: list[Descriptor], timeout: float = 2.0) -> int | None:
        """Publish the descriptors as a chain from slot 0; the byte in the ack's place, None if unanswered."""
        for slot, descriptor in enumerate(descriptors):
            self.ring.put_descriptor(slot, descriptor)
        self.ring.put_available(self._next, 0)
        self._next += 1
        self.ring.available_index = self._next
        os.eventfd_write(self.kick, 1)
        if not self._used(timeout):
            return None
        return self.region.view[3 * PAGE + 1024]

    def _used(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while self.ring.used_index != self._next & 0xFFFF:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            if select.select([self.call], [], [], remaining)[0]:
                os.eventfd_read(self.call)
        return True

    def close(self) -> None:
        os.close(self.kick)
        os.close(self.call)


async def negotiate(device, features: int = FEATURES) -> None:
    """From any state to FEATURES_OK, with every backend feature that is offered."""
    await device.set_backend_features(await device.get_backend_features())
    await device.set_status(0)
    await device.set_status(Status.ACKNOWLEDGE)
    await device.set_status(Status.ACKNOWLEDGE | Status.DRIVER)
    await device.set_features(features & await device.get_features())
    await device.set_status(READY)
