"""What the device looks like now: every control command it acknowledged, folded into one value.

``TrackedState`` is the value, ``Ledger`` the way to it.  The device executes
its control queue in order, so state is the fold of the acknowledged commands
*in the order they were submitted*, also when an answer comes late.  While an
expired command is without an answer the state is ``uncertain``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.wire.net_config import format_mac
from cvqd.wire.net_control import (
    AnnounceAck,
    Command,
    MacAddrSet,
    MacTableSet,
    RxMode,
    RxModeSet,
    VlanAdd,
    VlanDel,
    VqPairsSet,
)
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from collections.abc import Iterator

#: promiscuous until told otherwise: the specification is silent about reset, devices and QEMU agree on this
DEFAULT_RX: Final = 1 << RxMode.PROMISC


class TrackedState(NamedTuple):
    """A device's control state; the defaults are those after a reset.

    ``rx`` has bit n for ``RxMode`` n, ``vlans`` bit n for VLAN n; table entries are 6 bytes.
    """

    mac: bytes
    rx: int = DEFAULT_RX
    unicast: tuple[bytes, ...] = ()
    multicast: tuple[bytes, ...] = ()
    vlans: int = 0
    pairs: int = 1
    announce: bool = False

    def after(self, command: Command) -> TrackedState:
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
                return self._replace(pairs=pairs)
            case AnnounceAck():
                return self._replace(announce=False)
            case _:
                return self

    def digest(self) -> str:
        """16 hex digits; equal states have equal digests, whatever command order led there."""
        parts = (
            self.mac,
            bytes((self.rx, self.announce)),
            self.pairs.to_bytes(2, "little"),
            self.vlans.to_bytes(512, "little"),
            len(self.unicast).to_bytes(4, "little"),
            *sorted(self.unicast),
            *sorted(self.multicast),
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
            "digest": self.digest(),
        }


def replay(state: TrackedState, features: int) -> list[Command]:
    """Shortest list of commands from a reset device to ``state``, as far as ``features`` allow.

    ``rx.promisc`` and ``rx.allmulti`` are always said, since their value after a reset is not specified.
    """
    return list(_replay(state, features))


def _replay(state: TrackedState, features: int) -> Iterator[Command]:
    if features & Feature.CTRL_MAC_ADDR.mask:
        yield MacAddrSet(state.mac)
    if features & Feature.CTRL_RX.mask and (state.unicast or state.multicast):
        yield MacTableSet(state.unicast, state.multicast)
    if features & Feature.MQ.mask and state.pairs != 1:
        yield VqPairsSet(state.pairs)
    if features & Feature.CTRL_RX.mask:
        for mode in (RxMode.PROMISC, RxMode.ALLMULTI):
            yield RxModeSet(mode, state.rx >> mode & 1)
    if features & Feature.CTRL_RX_EXTRA.mask:
        for mode in (RxMode.ALLUNI, RxMode.NOMULTI, RxMode.NOUNI, RxMode.NOBCAST):
            if state.rx >> mode & 1:
                yield RxModeSet(mode, 1)
    if features & Feature.CTRL_VLAN.mask:
        for vid in state.vlan_ids():
            yield VlanAdd(vid)


class _Entry:
    __slots__ = ("acked", "command", "settled")

    def __init__(self, command: Command) -> None:
        self.command = command
        self.settled = False
        self.acked = False


class Ledger:
    """Submitted commands in order, and the state that their answers make.

    An id is used for one command.  ``state`` moves only when an answer says OK.
    """

    #: commands remembered behind one that never answers; beyond it the first is given up as lost
    DEPTH = 1024

    def __init__(self, state: TrackedState) -> None:
        self.state = state
        self._settled = state
        self._entries: dict[int, _Entry] = {}
        #: answered entries behind one that is not
        self._ahead = 0
        self._expired: set[int] = set()
        self._lost = False

    @property
    def uncertain(self) -> bool:
        """Whether the device may have executed a command whose answer is unknown."""
        return self._lost or bool(self._expired)

    def submitted(self, command_id: int, command: Command) -> None:
        """Note that the device has the command."""
        self._entries[command_id] = _Entry(command)
        if len(self._entries) > self.DEPTH:
            self.lost(next(iter(self._entries)))

    def expired(self, command_id: int) -> None:
        """Note that the guest was told ERR while the device still has the command."""
        self._expired.add(command_id)

    def lost(self, command_id: int) -> None:
        """Note that the command's answer will never be known; uncertain until the device is reset."""
        self._lost = True
        self.answered(command_id, acked=False)

    def answered(self, command_id: int, *, acked: bool) -> TrackedState | None:
        """Settle a command; the new state if it changed."""
        entry = self._entries.get(command_id)
        if entry is None or entry.settled:
            return None
        entry.settled, entry.acked = True, acked
        self._ahead += 1
        self._expired.discard(command_id)
        before = self.state
        first = next(iter(self._entries))
        while self._ahead and self._entries[first].settled:
            oldest = self._entries.pop(first)
            self._ahead -= 1
            if oldest.acked:
                self._settled = self._settled.after(oldest.command)
            first = next(iter(self._entries), first)
        self.state = self._settled
        if self._ahead:
            for open_entry in self._entries.values():
                if open_entry.acked:
                    self.state = self.state.after(open_entry.command)
        return self._changed(before)

    def local(self, command: Command) -> TrackedState | None:
        """Apply a command that the daemon answers itself; the new state if it changed."""
        before = self.state
        self._settled = self._settled.after(command)
        self.state = before.after(command)
        return self._changed(before)

    def raise_announce(self) -> None:
        """Ask the guest to announce itself (the config space shows the bit until it does)."""
        self._settled = self._settled._replace(announce=True)
        self.state = self.state._replace(announce=True)

    def _changed(self, before: TrackedState) -> TrackedState | None:
        return self.state if self.state != before else None
