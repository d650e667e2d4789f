"""What one session has agreed on: virtio features, protocol features, device status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.core.session.effects import SetFeatures, SetStatus
from cvqd.errors import FrontendError
from cvqd.wire.vhost_user import FrontRequest, ProtocolFeature, protocol_feature_names
from cvqd.wire.virtio import Feature, feature_names

if TYPE_CHECKING:
    from cvqd.core.session.offer import Offer


class Negotiation:
    """``features`` lack vhost-user's bit 30 and are valid only if ``features_set``."""

    def __init__(self, offer: Offer) -> None:
        self.features = 0
        self.features_set = False
        self.protocol_features = 0
        self.status = 0
        self.offer = offer

    def has(self, feature: ProtocolFeature) -> bool:
        """Whether this protocol feature was negotiated."""
        return bool(self.protocol_features & feature.mask)

    def set_features(self, word: int) -> SetFeatures:
        """SET_FEATURES; FrontendError for a feature that was not offered."""
        if unknown := word & ~self.offer.word:
            names = ", ".join(feature_names(unknown))
            raise FrontendError(FrontRequest.SET_FEATURES.name, f"not offered: {names}")
        self.features = word & ~Feature.PROTOCOL_FEATURES.mask
        self.features_set = True
        return SetFeatures(self.features, implicit_enable=self.features == word)

    def set_protocol_features(self, word: int) -> None:
        """SET_PROTOCOL_FEATURES; FrontendError for one not offered or without those it needs."""
        if unknown := word & ~self.offer.protocol_features:
            names = ", ".join(protocol_feature_names(unknown))
            raise FrontendError(FrontRequest.SET_PROTOCOL_FEATURES.name, f"not offered: {names}")
        needed = ProtocolFeature.REPLY_ACK.mask | ProtocolFeature.BACKEND_REQ.mask
        if word & ProtocolFeature.INBAND_NOTIFICATIONS.mask and needed & ~word:
            names = ", ".join(protocol_feature_names(needed & ~word))
            reason = f"INBAND_NOTIFICATIONS needs {names}"
            raise FrontendError(FrontRequest.SET_PROTOCOL_FEATURES.name, reason)
        self.protocol_features = word

    def set_status(self, value: int) -> SetStatus:
        """SET_STATUS: a byte, although the payload has eight; FrontendError for a larger value."""
        if value > 0xFF:
            raise FrontendError(FrontRequest.SET_STATUS.name, f"status {value:#x} is no byte")
        old, self.status = self.status, value
        return SetStatus(old, value)
