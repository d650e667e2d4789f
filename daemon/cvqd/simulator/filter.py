"""Which frames the device lets in: virtio 1.3 §5.1.6.5.1 to .3 as one pure function.

The order is that of QEMU's ``receive_filter`` (``hw/net/virtio-net.c``), which
the specification allows: promiscuous overrides everything, the NO modes
override the ALL modes, and tags are checked before addresses.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from cvqd.wire.net_control import RxMode

if TYPE_CHECKING:
    from cvqd.simulator.control_state import ControlState

BROADCAST: Final = b"\xff" * 6
#: destination, source, type
HEADER_LENGTH: Final = 14
TAG: Final = b"\x81\x00"  # IEEE 802.1Q


class Drop(enum.Enum):
    """Why a frame was not let in; the value is the name of its counter."""

    RUNT = "rx.runt"
    VLAN = "rx.vlan"
    BROADCAST = "rx.broadcast"
    MULTICAST = "rx.multicast"
    UNICAST = "rx.unicast"


def refusal(state: ControlState, frame: bytes) -> Drop | None:
    """Why ``frame`` (from its destination address on) is dropped, None if it is let in."""
    if len(frame) < HEADER_LENGTH:
        return Drop.RUNT
    modes = state.modes
    if RxMode.PROMISC in modes:
        return None
    if state.vlans is not None and frame[12:14] == TAG and _vlan_id(frame) not in state.vlans:
        return Drop.VLAN
    destination = frame[:6]
    if destination == BROADCAST:
        return Drop.BROADCAST if RxMode.NOBCAST in modes else None
    if destination[0] & 1:
        if RxMode.NOMULTI in modes:
            return Drop.MULTICAST
        accepted = RxMode.ALLMULTI in modes or destination in state.multicast
        return None if accepted else Drop.MULTICAST
    if RxMode.NOUNI in modes:
        return Drop.UNICAST
    accepted = RxMode.ALLUNI in modes or destination == state.mac or destination in state.unicast
    return None if accepted else Drop.UNICAST


def _vlan_id(frame: bytes) -> int | None:
    # a frame that ends inside its tag has no id and matches no table
    return int.from_bytes(frame[14:16], "big") & 0xFFF if len(frame) >= 16 else None
