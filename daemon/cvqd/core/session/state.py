"""The data of one session, as its requests change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.core.session.memory import SessionMemory
from cvqd.core.session.negotiation import Negotiation
from cvqd.core.session.rings import SessionRings

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvqd.core.session.offer import Offer
    from cvqd.wire.vhost_user import FileDescriptor


class SessionState:
    """What was negotiated, guest memory, rings, the back-end channel; and how to undo the last request.

    ``retired`` holds descriptors that were replaced but that the device may still use.
    """

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.agreed = Negotiation(offer)
        self.memory = SessionMemory()
        self.rings = SessionRings(offer.rings, offer.ring_size)
        self.backend_channel: FileDescriptor | None = None
        self.roll_back: Callable[[], None] = _nothing_to_roll_back
        self.retired: list[FileDescriptor] = []
        #: SET_FEATURES came without bit 30, so nobody will enable rings one by one
        self.implicit_enable = False

    def reoffer(self, offer: Offer) -> None:
        """Offer something else from now on; what was negotiated stays."""
        self.offer = self.agreed.offer = offer

    def retire(self, *descriptors: FileDescriptor | None) -> None:
        """Close these at ``close_retired``, once the device does not use them any more."""
        self.retired += [descriptor for descriptor in descriptors if descriptor is not None]

    def close_retired(self) -> None:
        """Close the retired descriptors; the device no longer uses them."""
        while self.retired:
            self.retired.pop().close()

    def begin(self) -> None:
        """A new request begins: the one before cannot be undone any more."""
        self.roll_back = _nothing_to_roll_back


def _nothing_to_roll_back() -> None:
    """Most requests cannot be refused by the device."""
