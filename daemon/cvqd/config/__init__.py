"""Configuration: one YAML file in, one frozen ``Config`` out.

A file describes one device; its stem is the instance name.  ``parse`` reports
every problem of a file at once, each as ``file:line:column: key: reason``.
Nothing here opens a device or a socket.

The fields are a table of our own (``config.fields``) rather than models of a
validation library: pydantic 2.14, measured, costs 120-160 ms of start-up and
21 MB of memory, a third and a half of what the whole daemon may take; msgspec
stops at the first error.  The manual's table is made from it, too.
"""

from __future__ import annotations

import enum
import os.path
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cvqd.config import scalars
from cvqd.config.device import DEVICE, OWN_DEVICE, CharDevice, DeviceConfig
from cvqd.config.fields import DEFAULTS, REQUIRED, Field, MapOf, Reader, Scalar, Section, rows
from cvqd.config.policy import POLICY
from cvqd.host.socket_paths import control_socket, frontend_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cvqd.core.site_policy import SitePolicy

__all__ = ["CharDevice", "Config", "DeviceConfig", "load", "parse", "table"]

#: a configuration is a screen of text; anything larger is some other file
MAX_BYTES: Final = 256 * 1024

#: keys that take effect without a restart, each with all keys below it
LIVE: Final = ("control_queue.deadline", "policy", "log.level")

#: where state is kept, if possible, when nothing is configured
DEFAULT_STATE: Final = "/var/lib/cvqd/{instance}"

LOG_LEVELS: Final = ("debug", "info", "warning", "error")


class IsolationPolicy(enum.StrEnum):
    """What to do if the control queue cannot have an address space of its own."""

    REQUIRE = "require"
    PREFER = "prefer"


@dataclass(frozen=True, slots=True)
class FrontendConfig:
    """The vhost-user socket; ``inband`` offers in-band notifications."""

    socket: str
    mode: int
    inband: bool


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """The control socket."""

    socket: str
    mode: int


@dataclass(frozen=True, slots=True)
class ControlQueueConfig:
    """Limits of a control command: ``deadline`` in seconds, ``max_command`` in bytes."""

    deadline: float
    max_command: int


@dataclass(frozen=True, slots=True)
class StateConfig:
    """Where tracked state is kept; None if not configured."""

    directory: str | None


@dataclass(frozen=True, slots=True)
class LogConfig:
    """``level``: debug, info, warning or error; ``format``: auto, console or json."""

    level: str
    format: str


@dataclass(frozen=True, slots=True)
class Config:
    """One instance, complete: defaults are filled in."""

    instance: str
    device: DeviceConfig
    targets: Mapping[str, DeviceConfig]
    frontend: FrontendConfig
    control: ControlConfig
    isolation: IsolationPolicy
    control_queue: ControlQueueConfig
    policy: SitePolicy
    state: StateConfig
    log: LogConfig


_INSTANCE: Final = r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,47}"


def instance_name(text: str) -> str:
    """The name, if it is valid in a socket's path and a unit's name; else ValueError."""
    if not re.fullmatch(_INSTANCE, text):
        raise ValueError(
            f"{text!r} is not a name: letters, digits and _ . : - (at most 48, the first a letter or digit)"
        )
    return text


def _target_name(text: str) -> str:
    if text == OWN_DEVICE:
        raise ValueError(f"{text!r} is what the configured device is called")
    return instance_name(text)


def load(path: str | os.PathLike[str]) -> Config:
    """Configuration from a file; ConfigError with every problem found, or if it cannot be read."""
    reader = Reader(str(path), {})
    try:
        with open(path, "rb") as file:  # noqa: PTH123 -- pathlib is 10 ms more to import
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        reader.problem(
            before.count("\n") + 1, len(before) - before.rfind("\n"), "yaml", f"not UTF-8: {error.reason}"
        )
    except (OSError, ValueError) as error:
        reader.problem(1, 1, "file", (error.strerror if isinstance(error, OSError) else None) or str(error))
    reader.finish()
    return parse(text, str(path))


def parse(text: str, file: str) -> Config:
    """Configuration from the text of ``file``; ConfigError with every problem found."""
    instance = os.path.splitext(os.path.basename(file))[0]  # noqa: PTH119, PTH122 -- see load
    reader = Reader(file, {"instance": instance})
    try:
        instance_name(instance)
    except ValueError as error:
        reader.problem(1, 1, "instance", f"the file's name is the instance's, and {error}")
    node = reader.compose(text)
    values: Any = None
    if node is not None:
        values = FILE.read(reader, node, "")
    elif reader.clean:
        reader.problem(1, 1, "device", "missing; the file is empty")
    reader.finish()
    return Config(instance=instance, **values)


def field(key: str) -> Field:
    """The field of a dotted key outside the device sections."""
    section, found = FILE, None
    for name in key.split("."):
        found = next(entry for entry in section.fields if entry.key == name)
        if isinstance(found.type, Section):
            section = found.type
    assert found is not None
    return found


def table() -> list[str]:
    """The manual's table of every key: lines of Markdown."""
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{key}` | {shown} | {default} | {doc} |" for key, shown, default, doc in rows(FILE)]
    return lines


def _agreed(**values: Any) -> dict[str, Any]:
    if values["frontend"].socket == values["control"].socket:
        raise ValueError("control: its socket is the front-end's")
    return values


def _group(key: str, build: Callable[..., Any], *entries: Field, doc: str = "") -> Field:
    return Field(key, Section(key, entries, build), DEFAULTS, doc)


_SOCKET: Final = scalars.path(longest=scalars.SUN_PATH)
_MODE: Final = scalars.mode()

#: a whole file; the manuals are made from it
FILE: Final = Section(
    "one instance",
    (
        Field("device", DEVICE, REQUIRED, "the device that the daemon owns"),
        Field(
            "targets",
            MapOf(DEVICE, "devices", Scalar("name", _target_name, scalars.word(_INSTANCE))),
            {},
            "devices for the guest to be moved to, by name, as `device`; it keeps its address",
            "none",
        ),
        _group(
            "frontend",
            FrontendConfig,
            Field(
                "socket",
                _SOCKET,
                frontend_socket("{instance}"),
                "socket for the front-end (vhost-user); unused with `--fd`",
            ),
            Field("mode", _MODE, 0o660, "permission of the socket", "0660"),
            Field(
                "inband",
                scalars.boolean(),
                default=False,
                doc="offer in-band notifications",
                shown_default="false",
            ),
            doc="where the VMM connects",
        ),
        _group(
            "control",
            ControlConfig,
            Field("socket", _SOCKET, control_socket("{instance}"), "socket that `cvqd status` asks"),
            Field("mode", _MODE, 0o660, "permission of the socket", "0660"),
            doc="where the other verbs reach the instance",
        ),
        Field(
            "isolation",
            scalars.member(IsolationPolicy),
            IsolationPolicy.REQUIRE,
            "where the control queue cannot be isolated: refuse to start, or warn and share",
        ),
        _group(
            "control_queue",
            ControlQueueConfig,
            Field("deadline", scalars.seconds(0.001, 60), 1.0, "the guest has its answer by then", "1s"),
            Field(
                "max_command",
                scalars.size(256, 16 << 20),
                64 << 10,
                "longest command that is read from the guest",
                "64KiB",
            ),
            doc="limits of a control command",
        ),
        Field("policy", POLICY, DEFAULTS, "what the guest may ask of its device"),
        _group(
            "state",
            StateConfig,
            Field(
                "directory",
                scalars.path(),
                None,
                "where tracked state is kept for a restart; left out, only if the default can be used",
                DEFAULT_STATE,
            ),
            doc="what the instance remembers",
        ),
        _group(
            "log",
            LogConfig,
            Field("level", scalars.choice(*LOG_LEVELS), "info", "quietest event that is shown"),
            Field(
                "format",
                scalars.choice("auto", "console", "json"),
                "auto",
                "`auto`: console on a terminal, JSON otherwise",
            ),
            doc="what is written to standard error, see `cvqd-events`(7)",
        ),
    ),
    _agreed,
)
