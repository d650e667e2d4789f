"""What an errno of vhost-vdpa means, and how a call is spelt in an error.

The kernel has few numbers for many reasons.  If there is only one reason for a
number from a call, it is listed here.  Source: ``drivers/vhost/vdpa.c`` and
``vhost.c``.  IOTLB messages only ever fail with EFAULT, see ``vdpa_books``.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from cvqd.wire.vhost_vdpa import BatchMark, Map
from cvqd.wire.vhost_vdpa_ioctl import Ioctl

if TYPE_CHECKING:
    from cvqd.wire.vhost_vdpa import IotlbMessage

# meaning of an errno from one call
_CAUSES: Final[dict[tuple[Ioctl, int], str]] = {
    (Ioctl.VHOST_SET_FEATURES, errno.EBUSY): "FEATURES_OK is set",
    (Ioctl.VHOST_SET_FEATURES, errno.EINVAL): "the device refuses this set of features",
    (Ioctl.VHOST_SET_BACKEND_FEATURES, errno.EOPNOTSUPP): "a bit is not offered",
    (Ioctl.VHOST_SET_BACKEND_FEATURES, errno.EINVAL): "DESC_ASID needs IOTLB_ASID",
    (Ioctl.VHOST_VDPA_SET_STATUS, errno.EINVAL): "a set bit would be cleared",
    (Ioctl.VHOST_VDPA_GET_CONFIG, errno.EINVAL): "empty or outside the configuration space",
    (Ioctl.VHOST_VDPA_SET_CONFIG, errno.EINVAL): "empty or outside the configuration space",
    (Ioctl.VHOST_VDPA_SET_GROUP_ASID, errno.EINVAL): "no such group or address space",
    (Ioctl.VHOST_VDPA_SET_GROUP_ASID, errno.ENOBUFS): "no such group",
    (Ioctl.VHOST_VDPA_SET_GROUP_ASID, errno.EBUSY): "DRIVER_OK is set",
    (Ioctl.VHOST_VDPA_GET_VRING_GROUP, errno.EIO): "the device reports a group that does not exist",
    (Ioctl.VHOST_SET_VRING_NUM, errno.EINVAL): "not a power of two, or above the device's maximum",
    (Ioctl.VHOST_SET_VRING_ADDR, errno.EINVAL): "misaligned, or the ring may be running",
    (Ioctl.VHOST_SET_VRING_BASE, errno.EINVAL): "above 65535, or the ring may be running",
    (Ioctl.VHOST_SET_VRING_BASE, errno.EOPNOTSUPP): "the device takes no ring index: a ring can only begin",
    (Ioctl.VHOST_SET_VRING_KICK, errno.EINVAL): "not an eventfd",
    (Ioctl.VHOST_SET_VRING_CALL, errno.EINVAL): "not an eventfd",
    (Ioctl.VHOST_VDPA_SET_CONFIG_CALL, errno.EINVAL): "not an eventfd",
}

# meaning of an errno from any other call
_GENERAL_CAUSES: Final = {
    errno.EBADF: "not an open descriptor",
    errno.ENOBUFS: "no such ring",
    errno.EPERM: "this process does not own the device",
    errno.EOPNOTSUPP: "the device does not have this",
    errno.ENOTTY: "this kernel does not have this call",
}


def ioctl_cause(request: Ioctl, number: int) -> str:
    """The most likely reason why ``request`` failed with ``number``."""
    return _CAUSES.get((request, number)) or _GENERAL_CAUSES.get(number) or os.strerror(number)


def spell_message(asid: int, message: IotlbMessage) -> tuple[str, str]:
    """Name and arguments of an IOTLB message, for an error."""
    if isinstance(message, BatchMark):
        return f"VHOST_IOTLB_BATCH_{message.name}", f"asid={asid}"
    shown = f"asid={asid}, iova={message.iova:#x}, size={message.size:#x}"
    if isinstance(message, Map):
        return "VHOST_IOTLB_UPDATE", f"{shown}, access={message.access.name}"
    return "VHOST_IOTLB_INVALIDATE", shown
