"""What each request must look like: the literal table that ``core.session`` checks first.

Source: QEMU ``docs/interop/vhost-user.rst``.  A request that is not in the
table is skipped, and acknowledged with an error if it asks for that; one whose
reply the front-end would wait for ends the connection instead.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from cvqd.wire.vhost_user import MAX_DESCRIPTORS, FrontRequest, ProtocolFeature


class OnRefusal(enum.Enum):
    """What a device's refusal does to a front-end that asked for no acknowledgement."""

    IMPOSSIBLE = enum.auto()  #: the device may not refuse: the connection ends, acknowledged or not
    CLOSE = enum.auto()  #: the connection ends: the front-end would rely on something it does not have
    IGNORE = enum.auto()  #: nothing: the front-end finds out when it looks


class Rule(NamedTuple):
    """``least`` to ``most`` descriptors, the protocol feature needed, and whether it always has a reply.

    The codecs check payload lengths.
    """

    least: int = 0
    most: int = 0
    needs: ProtocolFeature | None = None
    answers: bool = False
    refusal: OnRefusal = OnRefusal.IMPOSSIBLE


_MQ = ProtocolFeature.MQ
_CHANNEL = ProtocolFeature.BACKEND_REQ
_CONFIG = ProtocolFeature.CONFIG
_MTU = ProtocolFeature.MTU
_INBAND = ProtocolFeature.INBAND_NOTIFICATIONS
_RESET = ProtocolFeature.RESET_DEVICE
_SLOTS = ProtocolFeature.CONFIGURE_MEM_SLOTS
_STATUS = ProtocolFeature.STATUS
_STATE = ProtocolFeature.DEVICE_STATE

RULES: Final[dict[FrontRequest, Rule]] = {
    FrontRequest.GET_FEATURES: Rule(answers=True),
    FrontRequest.SET_FEATURES: Rule(refusal=OnRefusal.CLOSE),
    FrontRequest.SET_OWNER: Rule(),
    FrontRequest.RESET_OWNER: Rule(),
    FrontRequest.SET_MEM_TABLE: Rule(0, MAX_DESCRIPTORS),
    FrontRequest.SET_VRING_NUM: Rule(),
    FrontRequest.SET_VRING_ADDR: Rule(),
    FrontRequest.SET_VRING_BASE: Rule(),
    FrontRequest.GET_VRING_BASE: Rule(answers=True),
    FrontRequest.SET_VRING_KICK: Rule(0, 1),
    FrontRequest.SET_VRING_CALL: Rule(0, 1),
    FrontRequest.SET_VRING_ERR: Rule(0, 1),
    FrontRequest.GET_PROTOCOL_FEATURES: Rule(answers=True),
    FrontRequest.SET_PROTOCOL_FEATURES: Rule(),
    FrontRequest.GET_QUEUE_NUM: Rule(needs=_MQ, answers=True),
    FrontRequest.SET_VRING_ENABLE: Rule(),
    FrontRequest.VRING_KICK: Rule(needs=_INBAND),
    FrontRequest.NET_SET_MTU: Rule(needs=_MTU, refusal=OnRefusal.IGNORE),
    FrontRequest.SET_BACKEND_REQ_FD: Rule(1, 1, needs=_CHANNEL),
    FrontRequest.GET_CONFIG: Rule(needs=_CONFIG, answers=True, refusal=OnRefusal.IGNORE),
    FrontRequest.SET_CONFIG: Rule(needs=_CONFIG, refusal=OnRefusal.IGNORE),
    FrontRequest.RESET_DEVICE: Rule(needs=_RESET),
    FrontRequest.GET_MAX_MEM_SLOTS: Rule(needs=_SLOTS, answers=True),
    FrontRequest.ADD_MEM_REG: Rule(1, 1, needs=_SLOTS),
    # older front-ends send the region's descriptor along; it is closed
    FrontRequest.REM_MEM_REG: Rule(0, 1, needs=_SLOTS),
    FrontRequest.SET_STATUS: Rule(needs=_STATUS, refusal=OnRefusal.IGNORE),
    FrontRequest.GET_STATUS: Rule(needs=_STATUS, answers=True),
    FrontRequest.SET_DEVICE_STATE_FD: Rule(1, 1, needs=_STATE, answers=True, refusal=OnRefusal.IGNORE),
    FrontRequest.CHECK_DEVICE_STATE: Rule(needs=_STATE, answers=True, refusal=OnRefusal.IGNORE),
}

#: Requests that were never offered and whose sender waits for a reply that we cannot give.
UNANSWERABLE: Final = frozenset(
    {
        FrontRequest.IOTLB_MSG,
        FrontRequest.CREATE_CRYPTO_SESSION,
        FrontRequest.POSTCOPY_ADVISE,
        FrontRequest.POSTCOPY_END,
        FrontRequest.GET_INFLIGHT_FD,
        FrontRequest.GET_SHARED_OBJECT,
        FrontRequest.GET_SHMEM_CONFIG,
    }
)
