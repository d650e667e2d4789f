"""The judgement of a command before it is sent.

What is allowed here the device must accept too, so that device and tracked
state cannot disagree; what is refused never reaches the device.  The rules
are the device's normative requirements of virtio 1.3 §5.1.6.5.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cvqd.errors import GuestError
from cvqd.wire.net_control import (
    AnnounceAck,
    Command,
    MacAddrSet,
    MacTableSet,
    RxModeSet,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)

if TYPE_CHECKING:
    from cvqd.core.tracked import TrackedState


class Route(enum.Enum):
    """Who answers an allowed command."""

    DEVICE = "device"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Policy:
    """What was negotiated, as far as commands depend on it.

    ``features`` is the guest's word, ``max_pairs`` the number of pairs it was
    offered, ``announces`` whether the daemon, not the device, raises the
    announce bit.
    """

    features: int
    max_pairs: int
    announces: bool = False

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
            case RxModeSet(_, on):
                if on > 1:
                    raise GuestError("rx.value", f"{on} is neither 0 nor 1")
            case VlanAdd(vid) | VlanDel(vid):
                if vid > 4095:
                    raise GuestError("vlan.id", f"{vid} is above 4095")
            case VqPairsSet(pairs):
                if not 1 <= pairs <= self.max_pairs:
                    raise GuestError("mq.pairs", f"{pairs} is not 1 to {self.max_pairs}")
            case AnnounceAck():
                if self.announces:
                    if not state.announce:
                        raise GuestError("announce.not_asked", "no announcement is pending")
                    return Route.LOCAL
            case MacTableSet():
                pass
            case _:
                raise GuestError("command.unknown", command.name)
        return Route.DEVICE

    @staticmethod
    def waits(command: Command) -> bool:
        """Whether the judgement depends on commands that are still in flight."""
        return isinstance(command, VqPairsSet | AnnounceAck)
