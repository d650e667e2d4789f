"""What the site lets a guest do with its device, whatever the device itself would allow.

``policy`` judges by the specification's rules, this by the operator's; a command
must pass both.  A command that gives something up is never refused, nor is the
return to the address that the guest began with: a refusal must not keep a guest
in a state that the site does not want.

Only the rules and their consequences are here, not where they come from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cvqd.errors import GuestError
from cvqd.wire.net_config import format_mac
from cvqd.wire.net_control import (
    Command,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxMode,
    RxModeSet,
    VlanAdd,
    VqPairsSet,
)
from cvqd.wire.virtio import Feature, mask_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: the empty prefix, with which every address begins
ANY_MAC: Final = (b"",)
#: IEEE 802.1Q: a frame with this id has a priority but belongs to no VLAN; Linux adds the id by itself
NO_VLAN: Final = 0


@dataclass(frozen=True, slots=True)
class MacRule:
    """``change``: prefixes (0 to 6 bytes) of the addresses that a guest may set; empty for no change."""

    change: tuple[bytes, ...] = ANY_MAC


@dataclass(frozen=True, slots=True)
class MacTableRule:
    """Most entries of each filter table; None if the site sets no limit."""

    unicast: int | None = None
    multicast: int | None = None


@dataclass(frozen=True, slots=True)
class SitePolicy:
    """The site's rules; the default allows everything.

    ``vlans`` are the ids that a guest may let in, None for all; ``pairs`` is the most queue pairs that it
    may use, None for as many as the device has.
    """

    mac: MacRule = MacRule()
    promiscuous: bool = True
    all_multicast: bool = True
    vlans: frozenset[int] | None = None
    mac_table: MacTableRule = MacTableRule()
    pairs: int | None = None

    def judge(self, command: Command) -> None:
        """GuestError with the rule (such as ``site.mac``) that refuses the command; unlisted ones pass."""
        match command:
            case MacAddrSet(mac):
                if not mac.startswith(self.mac.change):
                    raise GuestError("site.mac", f"the guest may not take {format_mac(mac)}")
            case RxModeSet(mode, on) if on:
                self._judge_mode(mode, command.name)
            case VlanAdd(vid):
                if self.vlans is not None and vid != NO_VLAN and vid not in self.vlans:
                    raise GuestError("site.vlan", f"VLAN {vid} is not the guest's")
            case MacTableSet(unicast, multicast):
                _limit("unicast", len(unicast), self.mac_table.unicast)
                _limit("multicast", len(multicast), self.mac_table.multicast)
            case VqPairsSet(pairs):
                self._judge_pairs(pairs)
            case RssConfig():
                # max_tx_vq is a count, the others are indices
                self._judge_pairs(max(command.max_tx_vq, command.unclassified + 1, max(command.table) + 1))
            case _:
                pass

    def _judge_mode(self, mode: RxMode, name: str) -> None:
        # "all unicast" differs from promiscuous only by what "all multicast" says
        if mode in (RxMode.PROMISC, RxMode.ALLUNI) and not self.promiscuous:
            raise GuestError("site.promiscuous", f"{name} would let frames for others in")
        if mode is RxMode.ALLMULTI and not self.all_multicast:
            raise GuestError("site.all_multicast", f"{name} would let every group's frames in")

    def _judge_pairs(self, pairs: int) -> None:
        if self.pairs is not None and pairs > self.pairs:
            raise GuestError("site.pairs", f"{pairs} pairs; {self.pairs} is the most")

    def broken_by(self, commands: Iterable[Command]) -> list[str]:
        """Rules that any of these commands breaks, sorted; for a state that was reached under other rules."""
        return sorted(set(self._refusals(commands)))

    def _refusals(self, commands: Iterable[Command]) -> Iterator[str]:
        for command in commands:
            try:
                self.judge(command)
            except GuestError as refusal:
                yield refusal.reason

    def allowing(self, mac: bytes) -> SitePolicy:
        """These rules, for a guest that began with this address and may always return to it."""
        return replace(self, mac=MacRule((*self.mac.change, mac)))

    @property
    def needs(self) -> dict[str, Feature]:
        """Rules that a device can enforce only with a certain feature: without it, it lets everything in."""
        needed = {}
        if not self.promiscuous:
            needed["site.promiscuous"] = Feature.CTRL_RX
        if self.vlans is not None:
            needed["site.vlan"] = Feature.CTRL_VLAN
        return needed

    @property
    def features(self) -> int:
        """Features to acknowledge on the device, if it has them, even if the guest declines them."""
        return mask_of(*self.needs.values())

    def opening(self, guest_features: int, device_features: int) -> list[Command]:
        """Commands that bring a device from its reset state within the rules, before its guest runs.

        ``device_features`` are those acknowledged on the device.  A device is promiscuous after a
        reset, and a guest could keep it so by never sending a command.  A guest that did not take
        CTRL_RX or CTRL_VLAN cannot ask for groups or VLANs, so it gets all that it may have.
        """
        commands: list[Command] = []
        if not self.promiscuous and device_features & Feature.CTRL_RX.mask:
            commands.append(RxModeSet(RxMode.PROMISC, 0))
            if self.all_multicast and not guest_features & Feature.CTRL_RX.mask:
                commands.append(RxModeSet(RxMode.ALLMULTI, 1))
        if self.vlans is not None and device_features & ~guest_features & Feature.CTRL_VLAN.mask:
            commands += [VlanAdd(vid) for vid in sorted(self.vlans)]
        return commands


EVERYTHING: Final = SitePolicy()


def _limit(table: str, count: int, most: int | None) -> None:
    if most is not None and count > most:
        raise GuestError("site.mac_table", f"{count} {table} entries; {most} is the most")
