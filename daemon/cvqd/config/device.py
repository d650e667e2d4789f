"""The two kinds of device that a configuration can name, and the keys of each."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from cvqd.config import scalars
from cvqd.config.fields import REQUIRED, Field, ListOf, Scalar, Section, Union
from cvqd.simulator.spec import (
    DEFAULT_MAC,
    DEFAULT_MAC_TABLE,
    DEFAULT_QUEUE_SIZE,
    FAILING_CALLS,
    MAX_ADDRESS_SPACES,
    MAX_QUEUE_PAIRS,
    MAX_QUEUE_SIZE,
    SUPPORTED_FEATURES,
    CallFault,
    Fault,
    FaultAction,
    Groups,
    LoopbackPath,
    PeerPath,
    SimulatorSpec,
    TapPath,
)
from cvqd.wire import net_control
from cvqd.wire.net_config import format_mac
from cvqd.wire.virtio import Feature, feature_names, mask_of

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class CharDevice:
    """A vhost-vdpa node, by path or by the name that the ``vdpa`` tool shows; one of the two is None.

    ``mac`` (6 bytes) is set at the beginning of each driver's life; None keeps the device's own.
    """

    path: str | None = None
    vdpa: str | None = None
    mac: bytes | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.vdpa is None):
            raise ValueError("exactly one of path and vdpa names the device")


#: name of the configured device, beside those of the targets
OWN_DEVICE: Final = "device"

DeviceConfig = CharDevice | SimulatorSpec


def label(device: DeviceConfig) -> str:
    """What log lines call the device: its path, its vdpa name or ``simulator``."""
    if isinstance(device, CharDevice):
        return device.path or device.vdpa or ""
    return "simulator"


#: the kernel takes it as a device name, so it becomes one component of a path
_VDPA_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}"


def _vdpa_name(text: str) -> str:
    if not re.fullmatch(_VDPA_NAME, text):
        raise ValueError(f"{text[:48]!a} is not a name such as vdpa0")
    return text


def _simulator(
    features: Sequence[str] | None, faults: Sequence[Fault | CallFault], **values: Any
) -> SimulatorSpec:
    word = None if features is None else mask_of(*(Feature[name] for name in features))
    return SimulatorSpec(
        features=word,
        faults=tuple(fault for fault in faults if isinstance(fault, Fault)),
        call_faults=tuple(fault for fault in faults if isinstance(fault, CallFault)),
        **values,
    )


def _fault(
    command: str | None, call: str | None, action: FaultAction, delay: float, after: int, **times: int
) -> Fault | CallFault:
    if (command is None) == (call is None):
        raise ValueError("exactly one of command and call says what goes wrong")
    if command is not None:
        if after:
            raise ValueError("after: is for calls")
        return Fault(command, action, delay, **times)
    if action is not FaultAction.ERR:
        raise ValueError("action: a call can only end in `err`")
    assert call is not None
    if times["every"] > 1:
        raise ValueError("every: is for commands")
    return CallFault(call, times["count"], after)


def _named(shown: str, *words: str) -> Scalar:
    """A choice of more words than the manual's table has room for; ``shown`` stands for them."""
    return replace(scalars.choice(*words), shown=shown)


_DATAPATH: Final = Union(
    "mapping with `kind`",
    {
        "loopback": Section("frames come back on their pair, if the filters let them", (), LoopbackPath),
        "peer": Section(
            "frames travel to another simulator as Unix datagrams",
            (
                Field("bind", scalars.path(scalars.SUN_PATH), REQUIRED, "socket where frames arrive"),
                Field("connect", scalars.path(scalars.SUN_PATH), REQUIRED, "the other simulator's `bind`"),
            ),
            PeerPath,
        ),
        "tap": Section(
            "frames travel over a tap interface of this host",
            (
                Field(
                    "interface",
                    # the name of a network interface, dev_valid_name in net/core/dev.c
                    Scalar("name", str, scalars.word(r"(?!\.{1,2}$)[^/:%\s\x00]{1,15}")),
                    REQUIRED,
                    "its name; made, and gone with the daemon, if it is not there and the daemon may",
                ),
            ),
            TapPath,
        ),
    },
)

_FAULT: Final = Section(
    "fault",
    (
        Field(
            "command",
            _named("command or `*`", "*", *net_control.NAMES),
            None,
            "which command, by its name in the log; either this or `call`",
            "none",
        ),
        Field("call", scalars.choice(*FAILING_CALLS), None, "which call of cvqd's on the device", "none"),
        Field("action", scalars.member(FaultAction), REQUIRED, "what happens to it"),
        Field("delay", scalars.seconds(0, 3600), 5.0, "how late the answer is, for `delay`", "5s"),
        Field("count", scalars.integer(1, 1_000_000), 1, "how many commands or calls"),
        Field("every", scalars.integer(1, 1_000_000), 1, "one of so many commands of this name"),
        Field("after", scalars.integer(0, 1_000_000), 0, "how many calls go well before, for `call`"),
    ),
    _fault,
    exactly_one=("command", "call"),
)

DEVICE: Final = Union(
    "mapping with `kind`",
    {
        "vhost-vdpa": Section(
            "a vhost-vdpa character device",
            (
                Field("path", scalars.path(), None, "its node; either this or `vdpa`", "none"),
                Field(
                    "vdpa",
                    Scalar("name", _vdpa_name, scalars.word(_VDPA_NAME)),
                    None,
                    "its name as the `vdpa` tool shows it",
                    "none",
                ),
                Field(
                    "mac", scalars.mac(), None, "address at the start of each driver's life", "the device's"
                ),
            ),
            CharDevice,
            exactly_one=("path", "vdpa"),
        ),
        "simulator": Section(
            "the embedded device",
            (
                Field(
                    "mac", scalars.mac(), DEFAULT_MAC, "address after reset", f"`{format_mac(DEFAULT_MAC)}`"
                ),
                Field("mtu", scalars.integer(68, 65535), 1500, "longest packet, in bytes"),
                Field("max_queue_pairs", scalars.integer(1, MAX_QUEUE_PAIRS), 1, "queue pairs it has"),
                Field(
                    "queue_size",
                    scalars.integer(2, MAX_QUEUE_SIZE),
                    DEFAULT_QUEUE_SIZE,
                    "descriptors of its largest ring, a power of two",
                ),
                Field(
                    "groups",
                    scalars.member(Groups),
                    Groups.CVQ,
                    "which queues share a group",
                    f"`{Groups.CVQ.value}`",
                ),
                Field("address_spaces", scalars.integer(1, MAX_ADDRESS_SPACES), 2, "address spaces it has"),
                Field(
                    "mac_table_entries",
                    scalars.integer(0, DEFAULT_MAC_TABLE),
                    DEFAULT_MAC_TABLE,
                    "entries of its address tables together; a longer command is refused",
                ),
                Field(
                    "features",
                    ListOf(_named("feature name", *feature_names(SUPPORTED_FEATURES)), "feature names"),
                    None,
                    "what it offers, by name",
                    "all it can do",
                ),
                Field("datapath", _DATAPATH, LoopbackPath(), "where frames go", "`kind: loopback`"),
                Field("faults", ListOf(_FAULT, "faults"), (), "planned misbehaviour", "none"),
            ),
            _simulator,
        ),
    },
)
