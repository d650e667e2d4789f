"""What control commands have made of the device, and whether a command is obeyed.

This is the device's own judgement, written from virtio 1.3 §5.1.6.5 and not
from ``core.policy``: the two check each other, and neither may import the
other.  It knows no ring; ``cvq`` brings commands and takes answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cvqd.errors import GuestError
from cvqd.wire.net_config import LinkStatus, NetConfig
from cvqd.wire.net_control import (
    ERR,
    OK,
    AnnounceAck,
    MacAddrSet,
    MacTableSet,
    RxMode,
    RxModeSet,
    VlanAdd,
    VlanDel,
    VqPairsSet,
    decode,
    name_of,
)
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from cvqd.simulator.spec import SimulatorSpec
    from cvqd.wire.net_control import Command

#: name under which a request too short for a header is counted
HEADERLESS: Final = "command.header"


@dataclass(slots=True)
class ControlState:
    """Everything that commands change.

    ``vlans`` is None where CTRL_VLAN was not negotiated: then every tag passes.
    """

    mac: bytes
    modes: set[RxMode] = field(default_factory=set)
    unicast: frozenset[bytes] = frozenset()
    multicast: frozenset[bytes] = frozenset()
    vlans: set[int] | None = None
    pairs: int = 1
    announce: bool = False

    @classmethod
    def after_reset(cls, mac: bytes, features: int) -> ControlState:
        """State in which a driver that negotiated ``features`` finds the device.

        The specification is silent on receive modes.  With CTRL_RX the device
        is promiscuous until told otherwise, like QEMU's; without it nobody can
        tell, and it takes its own address and every group address.
        """
        filters = bool(features & Feature.CTRL_RX.mask)
        return cls(
            mac=mac,
            modes={RxMode.PROMISC if filters else RxMode.ALLMULTI},
            vlans=set() if features & Feature.CTRL_VLAN.mask else None,
        )


class Control:
    """Judges and obeys commands; builds the configuration space from their effect."""

    def __init__(self, spec: SimulatorSpec) -> None:
        self._spec = spec
        self.link_up = True
        self.features = 0
        self.state = ControlState.after_reset(spec.mac, 0)

    def reset(self) -> None:
        """Back to the configured address and the defaults; the link stays as it is."""
        self.negotiated(0)

    def negotiated(self, features: int) -> None:
        """A driver's life begins with these features."""
        self.features = features
        self.state = ControlState.after_reset(self._spec.mac, features)

    @property
    def config(self) -> bytes:
        """The 24 bytes of configuration space, virtio 1.3 §5.1.4."""
        offered = self._spec.offered_features
        status = 0
        if offered & Feature.STATUS.mask:
            status = (LinkStatus.LINK_UP if self.link_up else 0) | (
                LinkStatus.ANNOUNCE if self.state.announce else 0
            )
        return NetConfig(
            mac=self.state.mac,
            status=status,
            max_virtqueue_pairs=self._spec.max_queue_pairs if offered & Feature.MQ.mask else 0,
            mtu=self._spec.mtu if offered & Feature.MTU.mask else 0,
            speed=0,
            duplex=0,
        ).encode()

    @staticmethod
    def name(request: bytes) -> str:
        """Log name of a request, also of one that cannot be obeyed."""
        return name_of(request) if len(request) >= 2 else HEADERLESS

    def execute(self, request: bytes) -> int:
        """Obey a request or refuse it; the ack byte.  A refusal changes nothing."""
        try:
            command = decode(request)
        except GuestError:
            return ERR
        if command.feature is None or not self.features & command.feature.mask:
            return ERR
        return OK if self._obey(command) else ERR

    def _obey(self, command: Command) -> bool:
        state = self.state
        match command:
            case MacAddrSet(mac):
                state.mac = mac
            case MacTableSet(unicast, multicast):
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
                state.pairs = pairs
            case AnnounceAck() if state.announce:
                state.announce = False
            case _:
                return False
        return True
