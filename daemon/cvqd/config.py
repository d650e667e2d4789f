"""Configuration: one YAML file in, one frozen ``Config`` out.

A file describes one device; its stem is the instance name.  ``parse`` reports
every problem of a file at once, each as ``file:line:column: key: reason``.
Nothing here opens a device or a socket.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cvqd.simulator.spec import SimulatorSpec


class IsolationPolicy(enum.StrEnum):
    """What to do where the control queue cannot have an address space of its own."""

    REQUIRE = "require"
    PREFER = "prefer"


@dataclass(frozen=True, slots=True)
class CharDevice:
    """A vhost-vdpa node, by path or by the name that the ``vdpa`` tool shows; one of the two is None.

    ``mac`` (6 bytes) is set at each new driver's life, None leaves the device's own.
    """

    path: str | None
    vdpa: str | None
    mac: bytes | None


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
    """Where tracked state is kept."""

    directory: str


@dataclass(frozen=True, slots=True)
class LogConfig:
    """``level``: debug, info, warning or error; ``format``: auto, console or json."""

    level: str
    format: str


@dataclass(frozen=True, slots=True)
class Config:
    """One instance, complete: defaults are filled in."""

    instance: str
    device: CharDevice | SimulatorSpec
    frontend: FrontendConfig
    control: ControlConfig
    isolation: IsolationPolicy
    control_queue: ControlQueueConfig
    state: StateConfig
    log: LogConfig
    targets: Mapping[str, CharDevice | SimulatorSpec]


def load(path: str | Path) -> Config:
    """Configuration of a file; ConfigError with every problem found."""
    raise NotImplementedError


def parse(text: str, file: str) -> Config:
    """Configuration of a text that stands in ``file``; ConfigError with every problem found."""
    raise NotImplementedError
