"""The control queue's number where guest and device count differently.

The device's control queue stays at 2N, wherever a guest with fewer pairs has
its own.  Only statistics name it, in their requests and in their blocks; data
queues have the same numbers on both sides.
"""

from __future__ import annotations

from cvqd.wire.control_stats import StatsGet, StatsType, renumber_blocks


def request_for_device(command: StatsGet, guest: int, device: int) -> bytes:
    """Bytes of ``command`` as the device is to get it; the indices are the control queue's on either side."""
    requests = (each._replace(queue=device) if each.queue == guest else each for each in command.requests)
    return StatsGet(tuple(requests)).encode()


def result_for_guest(result: bytes, guest: int) -> bytes:
    """A result with the control queue's blocks under the guest's index."""
    return renumber_blocks(result, StatsType.CVQ, guest)
