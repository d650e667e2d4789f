"""Finding and opening a vhost-vdpa node, or a one-line reason why that fails.

A device is named by its node (``/dev/vhost-vdpa-0``) or by the name that the
``vdpa`` tool shows; sysfs connects the two (``drivers/vhost/vdpa.c`` makes the
node a child of the vdpa device).  Opening resets the device and is exclusive.
This file must not know what is done with the descriptor.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Final, NamedTuple

from cvqd.errors import UnavailableError
from cvqd.wire.vhost_vdpa_ioctl import U32, Ioctl
from cvqd.wire.virtio import NET_DEVICE_ID

SYSFS: Final = Path("/sys")

# sysexits.h
_UNAVAILABLE: Final = 69
_OS_ERROR: Final = 71
_BUSY: Final = 75
_NO_PERMISSION: Final = 77
_CONFIG: Final = 78


class Node(NamedTuple):
    """One vdpa device as sysfs shows it; ``path`` is empty unless it is bound to ``vhost_vdpa``."""

    name: str
    path: str
    driver: str


def list_nodes(sysfs: Path = SYSFS) -> list[Node]:
    """All vdpa devices of this host, by name; empty without the vdpa bus."""
    devices = sysfs / "bus" / "vdpa" / "devices"
    if not devices.is_dir():
        return []
    return [_node(entry) for entry in sorted(devices.iterdir())]


def find_node(name: str, sysfs: Path = SYSFS) -> str:
    """Path of the node of the vdpa device ``name``; UnavailableError if it has none."""
    nodes = {node.name: node for node in list_nodes(sysfs)}
    if name not in nodes:
        others = f"this host has {', '.join(nodes)}" if nodes else "this host has none"
        raise UnavailableError(name, errno.ENODEV, f"no vdpa device has this name; {others}", _UNAVAILABLE)
    node = nodes[name]
    if not node.path:
        bound = f"driver {node.driver} has it" if node.driver else "no driver has it"
        raise UnavailableError(
            name, errno.ENODEV, f"{bound}; bind it to vhost_vdpa (driver_override in sysfs)", _UNAVAILABLE
        )
    return node.path


def open_node(path: str) -> int:
    """Open and own a vDPA network device; a descriptor, or UnavailableError.

    ``VHOST_SET_OWNER`` ties it to this process's memory: a forked child can no
    longer map through it.  Blocks while the kernel resets the device.
    """
    fd = _open(path)
    try:
        _expect_network(path, fd)
        fcntl.ioctl(fd, Ioctl.VHOST_SET_OWNER)
    except OSError as error:
        os.close(fd)
        raise UnavailableError(
            path, error.errno or 0, f"VHOST_SET_OWNER: {error.strerror}", _OS_ERROR
        ) from error
    except UnavailableError:
        os.close(fd)
        raise
    return fd


def _node(entry: Path) -> Node:
    nodes = sorted(entry.glob("vhost-vdpa-*"))
    driver = entry / "driver"
    return Node(
        entry.name,
        f"/dev/{nodes[0].name}" if nodes else "",
        driver.resolve().name if driver.is_symlink() else "",
    )


def _open(path: str) -> int:
    try:
        mode = Path(path).stat().st_mode
        if not stat.S_ISCHR(mode):
            # checked before open, which would block on a FIFO
            raise UnavailableError(path, errno.ENOTTY, "not a character device", _CONFIG)
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        number = error.errno or 0
        raise UnavailableError(path, number, *_obstacle(path, number)) from error


def _obstacle(path: str, number: int) -> tuple[str, int]:
    match number:
        case errno.ENOENT | errno.ENOTDIR | errno.ENODEV | errno.ENXIO:
            return "no such device", _UNAVAILABLE
        case errno.EBUSY:
            return "busy: another process has it open", _BUSY
        case errno.EACCES | errno.EPERM:
            return _permission(path), _NO_PERMISSION
        case _:
            return f"cannot be opened: {os.strerror(number)}", _OS_ERROR


def _permission(path: str) -> str:
    me = f"this process is {_user(os.geteuid())}"
    try:
        found = Path(path).stat()
    except OSError:
        return f"no permission: {me} and may not look into the directory"
    return (
        f"no permission: it belongs to {_user(found.st_uid)}, group {_group(found.st_gid)}, "
        f"mode {stat.S_IMODE(found.st_mode):04o}, and {me}"
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _expect_network(path: str, fd: int) -> None:
    answer = bytearray(U32.size)
    try:
        fcntl.ioctl(fd, Ioctl.VHOST_VDPA_GET_DEVICE_ID, answer)
    except OSError as error:
        number = error.errno or 0
        raise UnavailableError(path, number, "not a vhost-vdpa device", _CONFIG) from error
    (device_id,) = U32.unpack(answer)
    if device_id != NET_DEVICE_ID:
        raise UnavailableError(
            path,
            errno.ENODEV,
            f"virtio device id {device_id}, not {NET_DEVICE_ID} (network)",
            _CONFIG,
        )
