"""The frozen description from which a simulated device is built.

``config`` makes it from YAML; tests make it directly.  It knows no file format
and nothing of how the device works.  The text of every ``ValueError`` that it
raises begins with the name of the field at fault.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from cvqd.wire.vhost_vdpa import Backend, IovaRange
from cvqd.wire.virtio import REQUIRES, Feature, mask_of

#: 52:54:00 is QEMU's prefix for guests and is locally administered
DEFAULT_MAC: Final = bytes.fromhex("525400127601")

#: 2N + 1 rings, of which vhost-user can number 256
MAX_QUEUE_PAIRS: Final = 127
#: largest ring, virtio 1.3 §2.7
MAX_QUEUE_SIZE: Final = 32768
#: ``VDPASIM_QUEUE_MAX`` of ``drivers/vdpa/vdpa_sim/vdpa_sim.c``
DEFAULT_QUEUE_SIZE: Final = 256

#: entries; more than the longest request can hold
DEFAULT_MAC_TABLE: Final = 16384

#: an arbitrary limit
MAX_ADDRESS_SPACES: Final = 16

#: Everything that the simulator can do; with one pair, MQ and RSS are not among the defaults.
#: GUEST_CSUM: checksums are verified and DATA_VALID is set.  GUEST_TSO: a device may merge packets but need
#: not do so (virtio 1.3 §5.1.6.4), and this one never does.
SUPPORTED_FEATURES: Final = mask_of(
    Feature.MTU,
    Feature.MAC,
    Feature.STATUS,
    Feature.CTRL_VQ,
    Feature.CTRL_RX,
    Feature.CTRL_VLAN,
    Feature.CTRL_RX_EXTRA,
    Feature.GUEST_ANNOUNCE,
    Feature.MQ,
    Feature.CTRL_MAC_ADDR,
    Feature.CTRL_GUEST_OFFLOADS,
    Feature.GUEST_CSUM,
    Feature.GUEST_TSO4,
    Feature.GUEST_TSO6,
    Feature.MRG_RXBUF,
    Feature.RSS,
    Feature.HASH_REPORT,
    Feature.NOTF_COAL,
    Feature.VQ_NOTF_COAL,
    Feature.DEVICE_STATS,
    Feature.ANY_LAYOUT,
    Feature.INDIRECT_DESC,
    Feature.EVENT_IDX,
    Feature.VERSION_1,
    Feature.ACCESS_PLATFORM,
    Feature.RING_PACKED,
)

#: features that a driver must accept: fields are little-endian and addresses are IOVAs
MANDATORY_FEATURES: Final = mask_of(Feature.VERSION_1, Feature.ACCESS_PLATFORM)

#: 0x17e, what the kernel's simulator offers since Linux 6.7
SUPPORTED_BACKEND_FEATURES: Final = (
    Backend.IOTLB_MSG_V2.mask
    | Backend.IOTLB_BATCH.mask
    | Backend.IOTLB_ASID.mask
    | Backend.SUSPEND.mask
    | Backend.RESUME.mask
    | Backend.ENABLE_AFTER_DRIVER_OK.mask
    | Backend.IOTLB_PERSIST.mask
)


class Groups(enum.Enum):
    """Which rings share a virtqueue group, whatever features are negotiated."""

    CVQ = "cvq"  #: the data rings are in group 0, the last ring is in group 1
    PER_QUEUE = "per-queue"  #: ring i is group i
    SINGLE = "single"  #: every ring is in group 0


@dataclass(frozen=True, slots=True)
class LoopbackPath:
    """Frames sent on a pair come back on the same pair."""


@dataclass(frozen=True, slots=True)
class PeerPath:
    """Frames travel as Unix datagrams: received at ``bind``, sent to ``connect`` (file system paths)."""

    bind: str
    connect: str

    def __post_init__(self) -> None:
        for name, path in (("bind", self.bind), ("connect", self.connect)):
            # sun_path holds 108 bytes with its terminating zero, unix(7)
            if not path or len(path.encode()) > 107:
                raise ValueError(f"{name}: {path!r} is not a path of 1 to 107 bytes")
        if self.bind == self.connect:
            raise ValueError("connect: is the same socket as bind")


@dataclass(frozen=True, slots=True)
class TapPath:
    """Frames travel over the host's tap interface of this name."""

    interface: str

    def __post_init__(self) -> None:
        # dev_valid_name in net/core/dev.c; with a percent sign the kernel would make up a name
        name = self.interface
        if (
            not 0 < len(name.encode()) < 16
            or name in {".", ".."}
            or any(character in "/:%\0" or character.isspace() for character in name)
        ):
            raise ValueError(f"interface: {name!r} is not the name of a network interface")


class FaultAction(enum.Enum):
    """How the control queue misbehaves.  ``delay`` and ``twice`` execute the command, the others do not."""

    ERR = "err"  #: answered ERR
    DROP = "drop"  #: never answered
    DELAY = "delay"  #: executed at once, answered later
    TWICE = "twice"  #: answered properly, then the same used element once more
    WRONG_ID = "wrong_id"  #: the used element names another chain
    ZERO_LENGTH = "zero_length"  #: returned with no byte written
    NEEDS_RESET = "needs_reset"  #: the device fails and serves nothing until it is reset


@dataclass(frozen=True, slots=True)
class Fault:
    """One planned misbehaviour, ``count`` times: each ``every``-th command named ``command`` (``*``: any)."""

    command: str
    action: FaultAction
    delay: float = 5.0  #: seconds, for ``FaultAction.DELAY``
    count: int = 1
    every: int = 1

    def __post_init__(self) -> None:
        if not self.command:
            raise ValueError("command: is empty")
        if not 0 <= self.delay < float("inf"):
            raise ValueError(f"delay: {self.delay} is not a number of seconds")
        if self.count < 1:
            raise ValueError(f"count: {self.count} is less than one")
        if self.every < 1:
            raise ValueError(f"every: {self.every} is less than one")


#: calls of ``core.device.VdpaDevice`` that can be made to fail
FAILING_CALLS: Final[dict[str, str]] = {
    "set_features": "VHOST_SET_FEATURES",
    "set_status": "VHOST_VDPA_SET_STATUS",
    "iotlb": "IOTLB",
    "set_vring_num": "VHOST_SET_VRING_NUM",
    "set_vring_addr": "VHOST_SET_VRING_ADDR",
    "set_vring_base": "VHOST_SET_VRING_BASE",
    "get_vring_base": "VHOST_GET_VRING_BASE",
    "set_vring_kick": "VHOST_SET_VRING_KICK",
    "set_vring_enable": "VHOST_VDPA_SET_VRING_ENABLE",
    "suspend": "VHOST_VDPA_SUSPEND",
    "resume": "VHOST_VDPA_RESUME",
}


@dataclass(frozen=True, slots=True)
class CallFault:
    """``count`` calls of this name fail with EIO, after ``after`` of them have succeeded."""

    call: str
    count: int = 1
    after: int = 0

    def __post_init__(self) -> None:
        if self.call not in FAILING_CALLS:
            raise ValueError(f"call: {self.call} is not one of {', '.join(FAILING_CALLS)}")
        if self.count < 1:
            raise ValueError(f"count: {self.count} is less than one")
        if self.after < 0:
            raise ValueError(f"after: {self.after} is negative")

    @property
    def ioctl(self) -> str:
        """The call's name in errors."""
        return FAILING_CALLS[self.call]


def default_features(max_queue_pairs: int) -> int:
    """Feature word offered if none is configured: everything but RING_PACKED, which QEMU leaves out too."""
    multiqueue = 0 if max_queue_pairs > 1 else mask_of(Feature.MQ, Feature.RSS)
    return SUPPORTED_FEATURES & ~(Feature.RING_PACKED.mask | multiqueue)


#: all 64-bit addresses, as the kernel's simulator reports
WHOLE_RANGE: Final = IovaRange(0, 2**64 - 1)


@dataclass(frozen=True, slots=True)
class SimulatorSpec:
    """A simulated network device.  ``ValueError`` for a description that cannot be implemented."""

    mac: bytes = DEFAULT_MAC  #: six bytes
    mtu: int = 1500  #: bytes
    max_queue_pairs: int = 1
    queue_size: int = DEFAULT_QUEUE_SIZE  #: largest ring, in descriptors
    groups: Groups = Groups.CVQ
    address_spaces: int = 2
    mac_table_entries: int = DEFAULT_MAC_TABLE  #: in both filter tables together; more are refused
    features: int | None = None  #: feature word to offer; None is ``default_features``
    datapath: LoopbackPath | PeerPath | TapPath = field(default_factory=LoopbackPath)
    faults: tuple[Fault, ...] = ()
    call_faults: tuple[CallFault, ...] = ()
    backend_features: int = SUPPORTED_BACKEND_FEATURES
    iova_range: IovaRange = WHOLE_RANGE

    def __post_init__(self) -> None:
        if len(self.mac) != 6:
            raise ValueError(f"mac: {self.mac.hex(':')} is not six bytes")
        if self.mac[0] & 1 or not any(self.mac):
            raise ValueError(f"mac: {self.mac.hex(':')} is not a station address")
        if not 68 <= self.mtu <= 65535:  # virtio 1.3 §5.1.4.1
            raise ValueError(f"mtu: {self.mtu} is not between 68 and 65535")
        if not 1 <= self.max_queue_pairs <= MAX_QUEUE_PAIRS:
            raise ValueError(
                f"max_queue_pairs: {self.max_queue_pairs} is not between 1 and {MAX_QUEUE_PAIRS}"
            )
        if not 2 <= self.queue_size <= MAX_QUEUE_SIZE or self.queue_size & (self.queue_size - 1):
            raise ValueError(
                f"queue_size: {self.queue_size} is not a power of two between 2 and {MAX_QUEUE_SIZE}"
            )
        if not 1 <= self.address_spaces <= MAX_ADDRESS_SPACES:
            raise ValueError(
                f"address_spaces: {self.address_spaces} is not between 1 and {MAX_ADDRESS_SPACES}"
            )
        if self.mac_table_entries < 0:
            raise ValueError(f"mac_table_entries: {self.mac_table_entries} is negative")
        self._check_features()

    def _check_features(self) -> None:
        offered = self.offered_features
        if offered & ~SUPPORTED_FEATURES:
            raise ValueError(f"features: {offered & ~SUPPORTED_FEATURES:#x} is not supported")
        if MANDATORY_FEATURES & ~offered:
            raise ValueError("features: VERSION_1 and ACCESS_PLATFORM cannot be left out")
        if offered & Feature.MQ.mask and self.max_queue_pairs == 1:
            raise ValueError("features: MQ needs more than one queue pair")
        for feature, needed in REQUIRES.items():
            if offered & feature.mask and not offered & mask_of(*needed):
                raise ValueError(f"features: {feature.name} needs {needed[0].name}")
        if self.backend_features & ~SUPPORTED_BACKEND_FEATURES:
            raise ValueError(f"backend_features: {self.backend_features:#x} has unsupported bits")

    @property
    def offered_features(self) -> int:
        """Feature word that the device offers."""
        return default_features(self.max_queue_pairs) if self.features is None else self.features

    @property
    def queue_count(self) -> int:
        """Rings: two for each pair, and the control ring where CTRL_VQ is offered."""
        return 2 * self.max_queue_pairs + (1 if self.offered_features & Feature.CTRL_VQ.mask else 0)

    @property
    def group_count(self) -> int:
        """Virtqueue groups, as GET_GROUP_NUM reports them."""
        if self.groups is Groups.PER_QUEUE:
            return self.queue_count
        return 2 if self.groups is Groups.CVQ else 1

    def group_of(self, queue: int) -> int:
        """Group of a ring."""
        if self.groups is Groups.PER_QUEUE:
            return queue
        return int(self.groups is Groups.CVQ and queue == 2 * self.max_queue_pairs)
