"""How long each data queue's notifications may be held back: the last command wins, virtio 1.3 §5.1.6.5.9.

Even queue indices are receive queues, odd ones transmit queues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cvqd.wire.net_control import Coalescing, CoalRxSet, CoalTxSet, CoalVqSet

if TYPE_CHECKING:
    from collections.abc import Iterator


class CoalescingTable(NamedTuple):
    """Values for all transmit and all receive queues, and by index those of single queues that differ."""

    tx: Coalescing = Coalescing()
    rx: Coalescing = Coalescing()
    queues: tuple[tuple[int, Coalescing], ...] = ()

    def of(self, queue: int) -> Coalescing:
        """Values of one queue."""
        return dict(self.queues).get(queue, self.tx if queue & 1 else self.rx)

    def after(self, *commands: CoalTxSet | CoalRxSet | CoalVqSet) -> CoalescingTable:
        """The table once the device acknowledged the commands; of many each costs what one of few does."""
        tx, rx = self.tx, self.rx
        own: tuple[dict[int, Coalescing], dict[int, Coalescing]] = ({}, {})
        for queue, values in self.queues:
            own[queue & 1][queue] = values
        for command in commands:
            match command:
                case CoalTxSet(tx):
                    own[1].clear()
                case CoalRxSet(rx):
                    own[0].clear()
                case CoalVqSet(queue, values):
                    own[queue & 1][queue] = values
        # a queue that has the values of its kind is no exception: equal tables must have equal fields
        differing = [(queue, values) for queue, values in own[0].items() if values != rx]
        differing += [(queue, values) for queue, values in own[1].items() if values != tx]
        return CoalescingTable(tx, rx, tuple(sorted(differing)))

    def global_commands(self) -> Iterator[CoalTxSet | CoalRxSet]:
        """Commands that give a reset device the values for all queues."""
        if self.tx != Coalescing():
            yield CoalTxSet(self.tx)
        if self.rx != Coalescing():
            yield CoalRxSet(self.rx)

    def queue_commands(self) -> Iterator[CoalVqSet]:
        """Commands that then set the exceptions; the device takes them for enabled queues only."""
        for queue, values in self.queues:
            yield CoalVqSet(queue, values)

    def encode(self) -> bytes:
        """Bytes that are equal for equal tables."""
        parts = [self.tx.encode(), self.rx.encode()]
        parts += [queue.to_bytes(2, "little") + values.encode() for queue, values in self.queues]
        return b"".join(parts)

    def as_dict(self) -> dict[str, object]:
        """For status, logs and people."""
        return {
            "tx": self.tx._asdict(),
            "rx": self.rx._asdict(),
            "queues": {str(queue): values._asdict() for queue, values in self.queues},
        }
