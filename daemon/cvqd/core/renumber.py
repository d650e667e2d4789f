"""The control queue's index, where guest and device number it differently.

The device's control queue stays at 2N, even if a guest with fewer pairs has its
own at a lower index.  Only statistics commands name it, in their requests and
in their result blocks; data queues have the same index on both sides.
"""

from __future__ import annotations

from cvqd.wire.control_stats import StatsGet, StatsType, renumber_blocks


def request_for_device(command: StatsGet, guest: int, device: int) -> bytes:
    """Bytes of ``command`` to send to the device; ``guest``, ``device``: the control queue's index there."""
    requests = (each._replace(queue=device) if each.queue == guest else each for each in command.requests)
    return StatsGet(tuple(requests)).encode()


def result_for_guest(result: bytes, guest: int) -> bytes:
    """A result whose control queue blocks carry the guest's index."""
    return renumber_blocks(result, StatsType.CVQ, guest)
