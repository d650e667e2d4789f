"""Status byte, feature word, backend features: what driver and device have negotiated, and the rules.

Errnos and their order are those of ``drivers/vhost/vdpa.c``.  Where the parent
device decides, this one is stricter than the kernel's simulator, which silently
masks features that it does not have and accepts any status.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from cvqd.errors import DeviceError
from cvqd.simulator.spec import MANDATORY_FEATURES
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.virtio import REQUIRES, Status, feature_names, mask_of

if TYPE_CHECKING:
    from cvqd.simulator.spec import SimulatorSpec
    from cvqd.wire.vhost_vdpa import Backend


class Negotiation:
    """What one driver has negotiated; ``backend`` survives a reset, the rest does not."""

    def __init__(self, spec: SimulatorSpec) -> None:
        self._spec = spec
        self.status = 0
        self.features = 0
        self.backend = 0
        #: format of all rings
        self.ring_format = RingFormat()
        self.suspended = False
        #: whether DRIVER_OK is set; kept beside ``status`` because every kick checks it
        self.driver_ok = False

    @property
    def running(self) -> bool:
        """Rings may be served."""
        return self.driver_ok and not self.suspended and not self.status & Status.NEEDS_RESET

    def acknowledged(self, bit: Backend) -> bool:
        """Whether a backend feature was acknowledged."""
        return bool(self.backend & bit.mask)

    def reset(self) -> None:
        """Status 0."""
        self.status = 0
        self.features = 0
        self.ring_format = RingFormat()
        self.suspended = False
        self.driver_ok = False

    def fail(self) -> None:
        """Set NEEDS_RESET; the bit stays until the reset."""
        self.status |= Status.NEEDS_RESET

    def set_features(self, features: int) -> None:
        """Acknowledge features; EBUSY after FEATURES_OK, EINVAL for a set the device refuses."""
        reason = self._objection(features)
        if self.status & Status.FEATURES_OK:
            raise DeviceError("VHOST_SET_FEATURES", errno.EBUSY, "FEATURES_OK is set", f"{features:#x}")
        if reason:
            raise DeviceError("VHOST_SET_FEATURES", errno.EINVAL, reason, f"{features:#x}")
        self.features = features
        self.ring_format = RingFormat.of(features)

    def set_backend_features(self, features: int) -> None:
        """Acknowledge backend features, replacing the earlier set; EOPNOTSUPP for one not offered."""
        refused = features & ~self._spec.backend_features
        if refused:
            raise DeviceError(
                "VHOST_SET_BACKEND_FEATURES",
                errno.EOPNOTSUPP,
                f"{refused:#x} is not offered",
                f"{features:#x}",
            )
        self.backend = features

    def set_status(self, status: int) -> None:
        """Add status bits (``status`` is not 0); EINVAL if one would be cleared or comes out of order."""
        if not 0 < status <= 0xFF or self.status & ~status:
            self._refuse_status(status, "a set bit would be cleared")
        if status & Status.FEATURES_OK and not self.features:
            # this is how a device refuses features: the driver reads back, virtio 1.3 §3.1.1 step 6
            status &= ~Status.FEATURES_OK
        if status & Status.DRIVER_OK and not status & Status.FEATURES_OK:
            self._refuse_status(status, "DRIVER_OK without FEATURES_OK")
        self.status = status
        self.driver_ok = bool(status & Status.DRIVER_OK)

    def _objection(self, features: int) -> str:
        if features & ~self._spec.offered_features:
            names = ", ".join(feature_names(features & ~self._spec.offered_features))
            return f"not offered: {names}"
        if MANDATORY_FEATURES & ~features:
            names = ", ".join(feature_names(MANDATORY_FEATURES & ~features))
            return f"cannot be declined: {names}"
        for feature, needed in REQUIRES.items():
            if features & feature.mask and not features & mask_of(*needed):
                return f"{feature.name} needs {needed[0].name}"
        return ""

    @staticmethod
    def _refuse_status(status: int, reason: str) -> None:
        raise DeviceError("VHOST_VDPA_SET_STATUS", errno.EINVAL, reason, f"{status:#x}")
