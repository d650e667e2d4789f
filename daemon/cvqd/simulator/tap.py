"""A simulator on a tap interface of the host: one read or write of the tun device per frame.

The interface's administrator decides who may use it (``ip tuntap add dev NAME
mode tap user NAME``).  If it does not exist, the kernel creates it, provided
the daemon has the permission, and removes it when the daemon closes it.  Frames
are whole Ethernet frames without any other header: the host completes checksums
and segmentation itself.

Source: Linux ``Documentation/networking/tuntap.rst``, ``drivers/net/tun.c``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

from cvqd.errors import DeviceError
from cvqd.simulator.datapath import BUDGET, MAX_FRAME

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from cvqd.simulator.spec import TapPath

_DEVICE: Final = "/dev/net/tun"
#: linux/if_tun.h: _IOW('T', 202, int)
_TUNSETIFF: Final = 0x400454CA
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
#: struct ifreq with its flags, padded to the kernel's 40 bytes
_IFREQ: Final = struct.Struct("16sH22x")

_REASONS: Final = {
    errno.EIO: "tap.down",
    errno.EBADFD: "tap.gone",
    errno.EAGAIN: "tap.full",
    errno.ENOBUFS: "tap.full",
    errno.ENOMEM: "tap.full",
}

_CAUSES: Final = {
    errno.ENOENT: f"{_DEVICE} is not there: the tun module is not loaded",
    errno.ENODEV: f"{_DEVICE} is there and its module is not",
    errno.EPERM: "the interface is not there or is another user's, and making one takes CAP_NET_ADMIN",
    errno.EACCES: f"no permission for {_DEVICE}",
    errno.EBUSY: "another process has the interface",
    errno.EINVAL: "the interface is not a tap interface, or has several queues",
}


class Tap:
    """One end on an interface, a context manager; DeviceError if the interface cannot be opened."""

    def __init__(self, path: TapPath) -> None:
        self._interface = path.interface
        self._fd = -1

    def __enter__(self) -> Self:
        try:
            self._fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            request = _IFREQ.pack(self._interface.encode(), _IFF_TAP | _IFF_NO_PI)
            fcntl.ioctl(self._fd, _TUNSETIFF, request)
        except OSError as error:
            call = "open" if self._fd < 0 else "TUNSETIFF"
            self.__exit__(None, None, None)
            number = error.errno or 0
            raise DeviceError(call, number, _CAUSES.get(number, ""), self._interface) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def fileno(self) -> int:
        """The descriptor, readable when frames have arrived."""
        return self._fd

    def send(self, frame: bytes, pair: int) -> str | None:  # noqa: ARG002 -- an interface has no pairs
        """Pass one frame to the host; the drop reason if it was lost."""
        try:
            os.write(self._fd, frame)
        except OSError as error:
            return _REASONS.get(error.errno or 0, "tap.failed")
        return None

    def arrived(self) -> tuple[list[bytes], bool]:
        """Up to ``BUDGET`` frames from the host, and whether there may be more."""
        frames: list[bytes] = []
        for _ in range(BUDGET):
            try:
                frames.append(os.read(self._fd, MAX_FRAME + 1))
            except OSError:
                # nothing more, or the interface was deleted, which is like pulling out the cable
                return frames, False
        return frames, True
