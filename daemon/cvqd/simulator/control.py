"""Executes control commands, or refuses them.

This is the device's own judgement, written from virtio 1.3 §5.1.6.5 and not
from ``core.policy``: the two check each other, and neither may import the
other.  It knows no ring; ``cvq`` passes in commands and takes the answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.errors import GuestError
from cvqd.simulator import counters
from cvqd.simulator.control_state import ControlState
from cvqd.simulator.statistics import Statistics
from cvqd.wire.net_config import LinkStatus, NetConfig
from cvqd.wire.net_control import (
    ERR,
    OK,
    AnnounceAck,
    CoalRxSet,
    CoalTxSet,
    CoalVqGet,
    CoalVqSet,
    GuestOffloadsSet,
    HashConfig,
    HashType,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxModeSet,
    StatsGet,
    StatsQuery,
    VlanAdd,
    VlanDel,
    VqPairsSet,
    decode,
    name_of,
)
from cvqd.wire.virtio import Feature, mask_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.simulator.spec import SimulatorSpec
    from cvqd.wire.net_control import Coalescing, Command

#: name under which a request too short for a header is counted
HEADERLESS: Final = "command.header"

#: bytes; a 32-bit window at each bit of the longest input, two IPv6 addresses and two ports
MAX_KEY: Final = 40
#: entries of the indirection table; the fewest that a device may offer, virtio 1.3 §5.1.4.1
MAX_TABLE: Final = 128
HASH_TYPES: Final = sum(kind.mask for kind in HashType)

_MULTIQUEUE: Final = mask_of(Feature.MQ, Feature.RSS)
_HASHING: Final = mask_of(Feature.RSS, Feature.HASH_REPORT)
#: the offloads of GUEST_OFFLOADS_SET, by the bits of the specification's table
_OFFLOAD_BITS: Final = frozenset({1, 7, 8, 9, 10, 54, 55})


class Control:
    """Judges and executes commands; builds the configuration space from their effect.

    Statistics commands are answered from ``statistics``; ``enabled`` says whether a ring (by index) is
    enabled.
    """

    def __init__(
        self,
        spec: SimulatorSpec,
        statistics: Statistics | None = None,
        enabled: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self._spec = spec
        self._statistics = statistics or Statistics()
        self._enabled = enabled
        self.link_up = True
        self.features = 0
        self.state = ControlState.after_reset(spec.mac, 0)

    def reset(self) -> None:
        """Back to the configured address and the defaults; the link stays as it is."""
        self.negotiated(0)

    def negotiated(self, features: int) -> None:
        """Begin a driver's life with these features."""
        self.features = features
        self.state = ControlState.after_reset(self._spec.mac, features)

    @property
    def max_pairs(self) -> int:
        """Pairs for which the driver has rings, virtio 1.3 §5.1.2."""
        return self._spec.max_queue_pairs if self.features & _MULTIQUEUE else 1

    def coalescing(self, queue: int) -> Coalescing:
        """Current parameters of a data ring."""
        return self.state.coalescing(queue)

    @property
    def config(self) -> bytes:
        """The 24 bytes of configuration space, virtio 1.3 §5.1.4."""
        offered = self._spec.offered_features
        status = 0
        if offered & Feature.STATUS.mask:
            status = (LinkStatus.LINK_UP if self.link_up else 0) | (
                LinkStatus.ANNOUNCE if self.state.announce else 0
            )
        hashes = bool(offered & _HASHING)
        return NetConfig(
            mac=self.state.mac,
            status=status,
            max_virtqueue_pairs=self._spec.max_queue_pairs if offered & _MULTIQUEUE else 0,
            mtu=self._spec.mtu if offered & Feature.MTU.mask else 0,
            speed=0,
            duplex=0,
            rss_max_key_size=MAX_KEY if hashes else 0,
            rss_max_indirection_table_length=MAX_TABLE if offered & Feature.RSS.mask else 0,
            supported_hash_types=HASH_TYPES if hashes else 0,
        ).encode()

    @staticmethod
    def name(request: bytes) -> str:
        """Log name of a request, even of one that cannot be executed."""
        return name_of(request) if len(request) >= 2 else HEADERLESS

    def execute(self, request: bytes) -> int:
        """Execute or refuse a request; the ack byte.  A refusal changes nothing."""
        return self.answer(request)[0]

    def answer(self, request: bytes) -> bytes:
        """Execute or refuse a request; the ack byte and, after OK, the result."""
        own = self._statistics.queues[2 * self.max_pairs]
        own["command_num"] += 1
        try:
            command = decode(request)
        except GuestError:
            return bytes((ERR,))
        if command.feature is None or not self.features & command.feature.mask:
            return bytes((ERR,))
        # the counters include the current command, §5.1.6.5.10.3: count it as a success until it fails
        own["ok_num"] += 1
        result = self._ask(command) if isinstance(command, _QUESTIONS) else self._obey(command)
        if result is None:
            own["ok_num"] -= 1
            return bytes((ERR,))
        return bytes((OK,)) + result

    def _ask(self, command: CoalVqGet | StatsQuery | StatsGet) -> bytes | None:
        match command:
            case CoalVqGet(queue):
                return self.state.coalescing(queue).encode() if self._runs(queue) else None
            case StatsQuery():
                return counters.capabilities(self.features)
            case StatsGet():
                return counters.answer(command, self.features, self._spec.max_queue_pairs, self._statistics)

    def _obey(self, command: Command) -> bytes | None:
        """Empty result if the command was executed, None if it was refused."""
        state = self.state
        match command:
            case MacAddrSet(mac):
                state.mac = mac
            case MacTableSet(unicast, multicast) if self._fits(len(unicast) + len(multicast)):
                state.unicast, state.multicast = frozenset(unicast), frozenset(multicast)
            case RxModeSet(mode, 0):
                state.modes.discard(mode)
            case RxModeSet(mode, 1):
                state.modes.add(mode)
            case VlanAdd(vid) if vid < 4096 and state.vlans is not None:
                state.vlans.add(vid)
            case VlanDel(vid) if vid < 4096 and state.vlans is not None:
                state.vlans.discard(vid)
            case VqPairsSet(pairs) if 1 <= pairs <= self._spec.max_queue_pairs:
                state.steer_automatically(pairs)
            case RssConfig() if self._can_steer(command) and self._can_hash(command.hash_types, command.key):
                state.steer_by_hash(command)
            case HashConfig(types, key, reserved) if not any(reserved) and self._can_hash(types, key):
                state.report_hashes(command)
            case GuestOffloadsSet(offloads) if self._has_offloads(offloads):
                state.offloads = offloads
            case CoalTxSet(values):
                state.coalesce_all(values, transmit=True)
            case CoalRxSet(values):
                state.coalesce_all(values, transmit=False)
            case CoalVqSet(queue, values) if self._runs(queue):
                state.queue_coalescing[queue] = values
            case AnnounceAck() if state.announce:
                state.announce = False
            case _:
                return None
        return b""

    def _fits(self, entries: int) -> bool:
        return entries <= self._spec.mac_table_entries

    def _runs(self, queue: int) -> bool:
        """Whether ``queue`` is an enabled receive or transmit queue."""
        return queue < 2 * self.max_pairs and self._enabled(queue)

    def _can_steer(self, config: RssConfig) -> bool:
        size = len(config.table)
        targets = {config.unclassified, *config.table}
        return (
            size <= MAX_TABLE
            and size.bit_count() == 1
            and max(targets) < self.max_pairs
            and 0 < config.max_tx_vq <= self.max_pairs
        )

    @staticmethod
    def _can_hash(types: int, key: bytes) -> bool:
        return types | HASH_TYPES == HASH_TYPES and len(key) <= MAX_KEY and (bool(key) or types == 0)

    def _has_offloads(self, offloads: int) -> bool:
        bits = {bit for bit in range(64) if offloads >> bit & 1}
        return bits <= {bit for bit in _OFFLOAD_BITS if self.features >> bit & 1}


#: commands whose answer is more than an ack
_QUESTIONS: Final = (CoalVqGet, StatsQuery, StatsGet)
