"""The device's control state: every command that it acknowledged, folded into one value.

``ledger`` builds it, ``restore`` brings a device back to it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, NamedTuple

from cvqd.core.coalescing import CoalescingTable
from cvqd.wire.control_steering import hash_type_names
from cvqd.wire.net_config import format_mac
from cvqd.wire.net_control import (
    GUEST_OFFLOADS,
    AnnounceAck,
    CoalRxSet,
    CoalTxSet,
    CoalVqSet,
    Command,
    GuestOffloadsSet,
    HashConfig,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxMode,
    RxModeSet,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.virtio import Feature, feature_names

#: promiscuous until told otherwise: the specification is silent about reset, devices and QEMU agree on this
DEFAULT_RX: Final = 1 << RxMode.PROMISC
#: without CTRL_RX a device receives for its own address and for every multicast address
UNFILTERED_RX: Final = 1 << RxMode.ALLMULTI


@dataclass(frozen=True, slots=True)
class TableKept:
    """A table that was acknowledged to the guest; with ``widened`` the device receives everything instead."""

    table: MacTableSet
    widened: bool


#: what changes the state
Change = Command | TableKept


class TrackedState(NamedTuple):
    """A device's control state; the defaults are those after a reset, unless features decide otherwise.

    ``rx`` has bit n for ``RxMode`` n, ``vlans`` bit n for VLAN n; table entries are 6 bytes.
    ``hashing`` is the last RSS_CONFIG or HASH_CONFIG in force, ``offloads`` the receive offloads
    that are on.  ``widened`` says that the device is promiscuous, whatever ``rx`` says, because
    it refused the tables.
    """

    mac: bytes
    rx: int = DEFAULT_RX
    unicast: tuple[bytes, ...] = ()
    multicast: tuple[bytes, ...] = ()
    vlans: int = 0
    pairs: int = 1
    announce: bool = False
    hashing: RssConfig | HashConfig | None = None
    offloads: int = 0
    coalescing: CoalescingTable = CoalescingTable()
    widened: bool = False

    @classmethod
    def after_reset(cls, mac: bytes, features: int) -> TrackedState:
        """State in which a driver that negotiated ``features`` finds the device."""
        return cls(
            mac,
            rx=DEFAULT_RX if features & Feature.CTRL_RX.mask else UNFILTERED_RX,
            # virtio 1.3 §5.1.6.5.8.1: upon feature negotiation the corresponding offload gets enabled
            offloads=features & GUEST_OFFLOADS,
        )

    def after(self, command: Change) -> TrackedState:
        """State once the device acknowledged ``command``."""
        match command:
            case MacAddrSet(mac):
                return self._replace(mac=mac)
            case RxModeSet(mode, on):
                return self._replace(rx=self.rx | 1 << mode if on else self.rx & ~(1 << mode))
            case MacTableSet(unicast, multicast):
                return self._replace(unicast=unicast, multicast=multicast)
            case VlanAdd(vid):
                return self._replace(vlans=self.vlans | 1 << vid)
            case VlanDel(vid):
                return self._replace(vlans=self.vlans & ~(1 << vid))
            case VqPairsSet(pairs):
                # §5.1.6.5.5: the last command decides the multiqueue mode; a hash report is not a mode
                hashing = None if isinstance(self.hashing, RssConfig) else self.hashing
                return self._replace(pairs=pairs, hashing=hashing)
            case RssConfig():
                return self._replace(pairs=command.max_tx_vq, hashing=command)
            case HashConfig():
                return self._replace(hashing=command)
            case GuestOffloadsSet(offloads):
                return self._replace(offloads=offloads)
            case CoalTxSet() | CoalRxSet() | CoalVqSet():
                return self._replace(coalescing=self.coalescing.after(command))
            case AnnounceAck():
                return self._replace(announce=False)
            case TableKept(table, widened):
                return self.after(table)._replace(widened=widened)
            case _:
                return self

    def digest(self) -> str:
        """16 hex digits; equal states have equal digests, whatever order of commands led there.

        Only what the guest asked for counts; ``widened`` is one device's way to provide it.
        """
        parts = (
            self.mac,
            bytes((self.rx, self.announce)),
            self.pairs.to_bytes(2, "little"),
            self.vlans.to_bytes(512, "little"),
            len(self.unicast).to_bytes(4, "little"),
            *sorted(self.unicast),
            *sorted(self.multicast),
            self.hashing.encode() if self.hashing else b"\0",
            self.offloads.to_bytes(8, "little"),
            self.coalescing.encode(),
        )
        return hashlib.blake2b(b"".join(parts), digest_size=8).hexdigest()

    def vlan_ids(self) -> list[int]:
        """VLANs that are let through, ascending."""
        return [vid for vid in range(self.vlans.bit_length()) if self.vlans >> vid & 1]

    def as_dict(self) -> dict[str, object]:
        """The state for status, logs and people."""
        return {
            "mac": format_mac(self.mac),
            "pairs": self.pairs,
            "rx": {mode.name.lower(): bool(self.rx >> mode & 1) for mode in RxMode},
            "mac_table": {
                "unicast": [format_mac(entry) for entry in self.unicast],
                "multicast": [format_mac(entry) for entry in self.multicast],
            },
            "vlans": self.vlan_ids(),
            "announce": self.announce,
            "steering": self._steering(),
            "offloads": feature_names(self.offloads),
            "coalescing": self.coalescing.as_dict(),
            "widened": self.widened,
            "digest": self.digest(),
        }

    def _steering(self) -> dict[str, object]:
        """Mode ``automatic``, ``hash_report`` or ``rss`` with its parameters, but not the key."""
        match self.hashing:
            case RssConfig():
                return {
                    "mode": "rss",
                    "hash_types": hash_type_names(self.hashing.hash_types),
                    "table": list(self.hashing.table),
                    "unclassified": self.hashing.unclassified,
                }
            case HashConfig():
                return {"mode": "hash_report", "hash_types": hash_type_names(self.hashing.hash_types)}
            case None:
                return {"mode": "automatic"}
