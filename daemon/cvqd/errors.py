"""Who is to blame.

The class of an error decides what happens next: a guest's mistake fails one
command, a front-end's ends one connection, a device's ends the device's run, a
configuration's stops the daemon before it starts.  The other classes report
what an operator asked for and cannot have.  Nothing here knows how an error is
shown.
"""

from __future__ import annotations

import errno as errno_names
from errno import EOPNOTSUPP


class CvqdError(Exception):
    """Base of the blamed errors; never raised itself."""

    #: sysexits code when this error ends the process.
    exit_code = 70


class GuestError(CvqdError):
    """The guest wrote something that virtio forbids.

    ``reason`` is a stable word for counters and log lines (``chain.loop``).
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class FrontendError(CvqdError):
    """The front-end broke the vhost-user protocol; its connection ends.

    ``request`` names the request that did it, as the protocol spells it.
    """

    exit_code = 76

    def __init__(self, request: str, reason: str) -> None:
        super().__init__(f"{request}: {reason}")
        self.request = request
        self.reason = reason


class DeviceError(CvqdError):
    """The device, or the kernel on its behalf, refused a call.

    ``call`` is the ioctl's name (the simulator uses the same names),
    ``arguments`` what was passed to it, ``errno`` the error it returned,
    ``reason`` the cause as far as cvqd can tell.
    """

    exit_code = 71

    def __init__(self, call: str, errno: int, reason: str = "", arguments: str = "") -> None:
        # one number has two names, and Python's table has the one (ENOTSUP) that the kernel does not use
        name = "EOPNOTSUPP" if errno == EOPNOTSUPP else errno_names.errorcode.get(errno, str(errno))
        shown = f"{call}({arguments})" if arguments else call
        super().__init__(f"{shown}: {name}" + (f": {reason}" if reason else ""))
        self.call = call
        self.arguments = arguments
        self.errno = errno
        self.reason = reason


class UnavailableError(DeviceError):
    """The device cannot be opened; ``exit_code`` says which kind of obstacle.

    69 absent, 71 the system refused, 75 busy, 77 no permission, 78 another kind of device.
    """

    def __init__(self, path: str, errno: int, reason: str, exit_code: int) -> None:
        super().__init__("open", errno, reason, path)
        self.path = path
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class IsolationError(DeviceError):
    """The policy is ``require`` and the control queue cannot be isolated."""

    exit_code = 78

    def __init__(self, reason: str) -> None:
        super().__init__("isolation", errno_names.EOPNOTSUPP, reason)

    def __str__(self) -> str:
        # no call was refused: the device cannot do what the configuration demands
        return f"isolation is required: {self.reason}; `isolation: prefer` would let it share"


class RequestError(CvqdError):
    """A running instance cannot do now what an operator asked of it; nobody is to blame."""

    exit_code = 75


class SnapshotError(CvqdError):
    """The bytes are not a valid snapshot; ``offset`` is the byte at which that shows."""

    exit_code = 65

    def __init__(self, reason: str, offset: int = 0) -> None:
        super().__init__(f"not a snapshot: {reason} (byte {offset})")
        self.reason = reason
        self.offset = offset


class CompatibilityError(CvqdError):
    """A device cannot carry on from a snapshot; ``shortcomings`` has each reason, the text not all."""

    exit_code = 65
    #: reasons that are told: a snapshot may be wrong for every queue there can be
    _TOLD = 100

    def __init__(self, shortcomings: list[str]) -> None:
        left_out = len(shortcomings) - self._TOLD
        more = [f"and {left_out} more"] if left_out > 0 else []
        super().__init__("; ".join(shortcomings[: self._TOLD] + more))
        self.shortcomings = shortcomings


class SocketError(CvqdError):
    """A listening socket cannot be made or used; ``place`` is its path, or ``fd N`` if it was inherited."""

    exit_code = 73

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = place
        self.reason = reason


class ActivationError(SocketError):
    """The sockets that a unit passed cannot be used; ``place`` is the variable or the descriptor."""

    exit_code = 78


class StateError(CvqdError):
    """Tracked state cannot be kept in the configured place.

    ``exit_code``: 75 if another process uses it, 77 without permission, else 73.
    """

    def __init__(self, path: str, errno: int, reason: str) -> None:
        super().__init__(f"state cannot be kept: {path}: {reason}")
        self.path = path
        self.errno = errno
        self.reason = reason
        self.exit_code = _STATE_EXITS.get(errno, 73)


_STATE_EXITS = {
    errno_names.EBUSY: 75,
    errno_names.EACCES: 77,
    errno_names.EPERM: 77,
    errno_names.EROFS: 77,
}


class ConfigError(CvqdError):
    """The configuration is wrong; ``problems`` holds every finding.

    Each problem reads ``file:line:column: key: reason``.
    """

    exit_code = 78

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group, at any depth; an error that is not a group is its own only leaf."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def most_specific(error: BaseException) -> BaseException:
    """The error in a group to report: the CvqdError of the most derived class, else the first error."""
    found = leaves(error)
    blamed = [leaf for leaf in found if isinstance(leaf, CvqdError)]
    return max(blamed, key=lambda leaf: len(type(leaf).__mro__), default=found[0])
