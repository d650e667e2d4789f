"""The judgement of a command before it is sent.

A command that is allowed here must be acceptable to the device too, so that
device and tracked state cannot disagree; one that is refused never reaches the
device.  The rules are the normative requirements on devices in virtio 1.3
§5.1.6.5, and those on drivers that a device is free to enforce.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.core.queues.shadow_queue import SHORT_ANSWER
from cvqd.core.renumber import request_for_device, result_for_guest
from cvqd.errors import GuestError
from cvqd.wire.net_control import (
    GUEST_OFFLOADS,
    AnnounceAck,
    CoalRxSet,
    CoalTxSet,
    CoalVqGet,
    CoalVqSet,
    Command,
    GuestOffloadsSet,
    HashConfig,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxMode,
    RxModeSet,
    StatsGet,
    StatsQuery,
    StatsRequest,
    StatsType,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.virtio import Feature, feature_names, mask_of

if TYPE_CHECKING:
    from cvqd.core.tracked import TrackedState
    from cvqd.wire.net_config import NetConfig


class Route(enum.Enum):
    """Who answers an allowed command."""

    DEVICE = "device"
    LOCAL = "local"


class HashLimits(NamedTuple):
    """What the configuration space allows: key in bytes, table in entries, ``types`` a mask; §5.1.4."""

    key: int = 0
    table: int = 0
    types: int = 0

    @classmethod
    def of(cls, config: NetConfig) -> HashLimits:
        """The limits in a device's configuration space."""
        return cls(
            config.rss_max_key_size, config.rss_max_indirection_table_length, config.supported_hash_types
        )


NO_HASHING: Final = HashLimits()


@dataclass(frozen=True, slots=True)
class Policy:
    """What was negotiated, as far as commands depend on it.

    ``features`` is the guest's word, ``max_pairs`` the number of pairs it has
    rings for, ``announces`` whether the daemon, not the device, raises the
    announce bit, ``hashing`` the device's limits, ``disabled`` the data queues
    that do not run, ``device_cvq`` the control queue's index on the device,
    None if it is the same as the guest's.  An answer has at most ``max_answer``
    bytes.
    """

    features: int
    max_pairs: int
    announces: bool = False
    hashing: HashLimits = NO_HASHING
    disabled: frozenset[int] = frozenset()
    device_cvq: int | None = None
    max_answer: int = SHORT_ANSWER

    def judge(self, command: Command, state: TrackedState) -> Route:
        """Route of an allowed command; GuestError with the rule that refuses it."""
        feature = command.feature
        if feature is None:
            raise GuestError("command.unknown", command.name)
        if not self.features & feature.mask:
            raise GuestError("command.not_negotiated", f"{command.name} needs {feature.name}")
        match command:
            case MacAddrSet(mac):
                # IEEE 802: a station's own address is neither a group's nor zero
                if mac[0] & 1 or not any(mac):
                    raise GuestError("mac.not_unicast", mac.hex(":"))
            case RxModeSet(mode, on):
                if on > 1:
                    raise GuestError("rx.value", f"{on} is neither 0 nor 1")
                if mode is RxMode.PROMISC and state.widened:
                    # the device stays promiscuous, in place of the tables that it refused
                    return Route.LOCAL
            case VlanAdd(vid) | VlanDel(vid):
                if vid > 4095:
                    raise GuestError("vlan.id", f"{vid} is above 4095")
            case VqPairsSet(pairs):
                if not 1 <= pairs <= self.max_pairs:
                    raise GuestError("mq.pairs", f"{pairs} is not 1 to {self.max_pairs}")
            case RssConfig():
                self._judge_table(command)
                self._judge_hash(command.hash_types, command.key)
            case HashConfig(hash_types, key, reserved):
                if any(reserved):
                    raise GuestError("hash.reserved", f"{reserved.hex()} is not zero")
                self._judge_hash(hash_types, key)
            case GuestOffloadsSet(offloads):
                beyond = offloads & ~(self.features & GUEST_OFFLOADS)
                if beyond:
                    raise GuestError("offloads.not_negotiated", ", ".join(feature_names(beyond)))
            case CoalVqSet(queue) | CoalVqGet(queue):
                self._judge_data_queue("coalescing.queue", queue)
            case StatsGet():
                self._judge_statistics(command)
            case AnnounceAck():
                if state.announce:
                    # cvqd raised the bit; the device knows nothing of it
                    return Route.LOCAL
                if self.announces:
                    raise GuestError("announce.not_asked", "no announcement is pending")
            case MacTableSet() | CoalTxSet() | CoalRxSet() | StatsQuery():
                pass
            case _:
                raise GuestError("command.unknown", command.name)
        return Route.DEVICE

    def for_device(self, command: Command, data: bytes) -> bytes:
        """Bytes of an allowed command to send to the device; ``data`` are the guest's."""
        if self.device_cvq in (None, 2 * self.max_pairs) or not isinstance(command, StatsGet):
            return data
        return request_for_device(command, 2 * self.max_pairs, self.device_cvq)

    def for_guest(self, command: Command | None, result: bytes) -> bytes:
        """The device's result in the form that the guest gets."""
        if self.device_cvq in (None, 2 * self.max_pairs) or not isinstance(command, StatsGet):
            return result
        return result_for_guest(result, 2 * self.max_pairs)

    @staticmethod
    def waits(command: Command) -> bool:
        """Whether the judgement depends on commands that are still in flight."""
        return isinstance(command, _DEPENDENT)

    def _judge_table(self, command: RssConfig) -> None:
        # §5.1.6.5.7.1, requirements on the device and on the driver
        entries = command.mask + 1
        if entries & command.mask:
            raise GuestError("rss.table", f"{entries} entries are no power of two")
        if entries > self.hashing.table:
            raise GuestError("rss.table", f"{entries} entries are more than {self.hashing.table}")
        for pair in (*command.table, command.unclassified):
            # also catches bit 15, which is reserved and must be zero
            if pair >= self.max_pairs:
                raise GuestError("rss.queue", f"receive pair {pair} is not below {self.max_pairs}")
        if not 1 <= command.max_tx_vq <= self.max_pairs:
            raise GuestError("rss.max_tx_vq", f"{command.max_tx_vq} is not 1 to {self.max_pairs}")

    def _judge_hash(self, types: int, key: bytes) -> None:
        if types & ~self.hashing.types:
            raise GuestError("hash.types", f"{types & ~self.hashing.types:#x} is not supported")
        if len(key) > self.hashing.key:
            raise GuestError("hash.key", f"{len(key)} bytes are more than {self.hashing.key}")
        if types and not key:
            raise GuestError("hash.key", "hash types without a key")

    def _judge_data_queue(self, rule: str, queue: int) -> None:
        if queue == 2 * self.max_pairs:
            raise GuestError(rule, f"queue {queue} is the control queue")
        if queue > 2 * self.max_pairs:
            raise GuestError(rule, f"there is no queue {queue}")
        if queue in self.disabled:
            raise GuestError(rule, f"queue {queue} is not enabled")

    def _judge_statistics(self, command: StatsGet) -> None:
        # §5.1.6.5.10.12: one mistake fails the whole command
        for request in command.requests:
            self._judge_types(request)
        if command.answer_length > self.max_answer:
            raise GuestError("stats.too_long", f"{command.answer_length} bytes of {self.max_answer}")

    def _judge_types(self, request: StatsRequest) -> None:
        queue = request.queue
        if queue > 2 * self.max_pairs:
            raise GuestError("stats.queue", f"there is no queue {queue}")
        control = queue == 2 * self.max_pairs
        valid = StatsType.CVQ.mask if control else _TRANSMIT if queue & 1 else _RECEIVE
        for kind, needs in _STATS_NEED.items():
            if not self.features & needs:
                valid &= ~kind.mask
        if request.types & ~valid:
            raise GuestError("stats.types", f"{request.types & ~valid:#x} is not queue {queue}'s")


_RECEIVE: Final = sum(kind.mask for kind in StatsType if kind < StatsType.TX_BASIC)
_TRANSMIT: Final = sum(kind.mask for kind in StatsType if StatsType.TX_BASIC <= kind < StatsType.CVQ)

#: for some types, the features of which at least one must be negotiated, §5.1.6.5.10
_STATS_NEED: Final[dict[StatsType, int]] = {
    StatsType.RX_CSUM: Feature.GUEST_CSUM.mask,
    StatsType.TX_CSUM: Feature.CSUM.mask,
    StatsType.RX_GSO: mask_of(Feature.GUEST_TSO4, Feature.GUEST_TSO6),
    StatsType.TX_GSO: mask_of(Feature.HOST_TSO4, Feature.HOST_TSO6, Feature.HOST_USO),
}

#: commands whose effect and judgement depend on earlier ones
_DEPENDENT: Final = (
    VqPairsSet,
    RssConfig,
    HashConfig,
    CoalTxSet,
    CoalRxSet,
    CoalVqSet,
    CoalVqGet,
    AnnounceAck,
)
