"""A guest's memory and control ring for another process: descriptors and addresses in one argument."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cvqd.host.shared_memory import SharedMemory
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.split_ring import RingAddresses, SplitRing

if TYPE_CHECKING:
    from cvqd.testing.net_driver import NetDriver


def describe(driver: NetDriver) -> tuple[str, tuple[int, ...]]:
    """The argument for ``SharedGuest``, and the descriptors that must be inherited with it."""
    memory, queue = driver.memory, driver.control
    assert queue is not None
    layout = {
        "memory": memory.fileno(),
        "start": memory.guest_address,
        "size": memory.size,
        "kick": queue.kick,
        "call": queue.call,
        "index": queue.index,
        "num": queue.num,
        "addresses": queue.addresses,
        "format": queue.format,
    }
    return json.dumps(layout), (memory.fileno(), queue.kick, queue.call)


class SharedGuest:
    """What ``describe`` described, mapped here; addresses are guest-physical."""

    def __init__(self, description: str) -> None:
        layout = json.loads(description)
        self.region = SharedMemory(layout["memory"], layout["size"])
        self.start: int = layout["start"]
        self.kick: int = layout["kick"]
        self.call: int = layout["call"]
        self.index: int = layout["index"]
        self.num: int = layout["num"]
        self.addresses = RingAddresses(*layout["addresses"])
        self.format = RingFormat(*layout["format"])

    @property
    def ring(self) -> SplitRing:
        """The live ring, if it is a split one."""
        live = self.format.open(self.num, map(self.view, self.addresses, self.format.sizes(self.num)))
        assert isinstance(live, SplitRing), "only the device serves packed rings here"
        return live

    def view(self, address: int, length: int) -> memoryview:
        """Those bytes, writable."""
        begin = address - self.start
        return self.region.view[begin : begin + length]
