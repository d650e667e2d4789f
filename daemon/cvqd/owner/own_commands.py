"""Commands of our own, for front-ends that keep their guest's control queue to themselves.

QEMU's ``-netdev vhost-user``, cloud-hypervisor and DPDK's virtio-user execute
their guest's control commands themselves and offer it no CTRL_VQ of ours.  The
device has its control queue all the same, and somebody has to drive it: the
filters that the guest sets never arrive, so the device lets everything in, and
its queue pairs follow SET_VRING_ENABLE.

``OwnQueue`` stands where a guest's queue would: the relay takes a command out
of it, judges, sends, tracks and logs it, and gives it back with its answer.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING

import trio

from cvqd.core.queues.chain import Chain
from cvqd.wire.net_control import ERR, Command, RxMode, RxModeSet, VqPairsSet
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


def opening(device_features: int, pairs: int, *, promiscuous: bool) -> list[Command]:
    """Commands that bring a device from its reset state to what a guest without commands needs.

    ``device_features`` are those acknowledged on the device; ``promiscuous`` is whether the site lets
    frames for others in.
    """
    commands: list[Command] = []
    if promiscuous and device_features & Feature.CTRL_RX.mask:
        # virtio 1.3 §5.1.6.5.1.1: a promiscuous device SHOULD receive everything; groups are asked for too
        commands += [RxModeSet(RxMode.PROMISC, 1), RxModeSet(RxMode.ALLMULTI, 1)]
    if device_features & Feature.MQ.mask and pairs > 1:
        commands.append(VqPairsSet(pairs))
    return commands


def pairs_of(usable: Collection[int], most: int) -> int:
    """Smallest number of queue pairs, 1 to ``most``, that covers every pair with both rings ``usable``.

    A device can switch pairs only by their number: a pair that is off below one that is on stays on.
    """
    complete = (pair for pair in range(most) if 2 * pair in usable and 2 * pair + 1 in usable)
    return max(complete, default=0) + 1


class OwnQueue:
    """Commands on their way to the relay, which ``kick`` wakes, and back."""

    def __init__(self, kick: Callable[[], None]) -> None:
        self._kick = kick
        self._heads = itertools.count()
        self._waiting: deque[Chain] = deque()
        self._open: dict[int, trio.Event] = {}
        self._returned: list[int] = []

    async def command(self, command: Command) -> int:
        """Status byte of the command, by the relay's deadline at the latest."""
        status = bytearray((ERR,))
        chain = Chain(next(self._heads))
        chain.readable.append(memoryview(command.encode()))
        chain.writable.append(memoryview(status))
        answered = self._open[chain.head] = trio.Event()
        self._waiting.append(chain)
        self._kick()
        await answered.wait()
        return status[0]

    # what the relay needs of a guest's queue

    def pop(self) -> Chain | None:
        """Next command that was not taken yet."""
        return self._waiting.popleft() if self._waiting else None

    def push(self, chain: Chain, written: int) -> None:  # noqa: ARG002 -- a status byte is all there is
        """Take a command back; its answer is in its memory already."""
        self._returned.append(chain.head)

    def publish(self) -> None:
        """Wake the callers whose commands were answered."""
        while self._returned:
            self._open.pop(self._returned.pop()).set()
