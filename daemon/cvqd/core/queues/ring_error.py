"""A breach of the virtqueue protocol by the device."""

from __future__ import annotations


class RingError(Exception):
    """``reason`` is a stable word, ``detail`` a sentence; after a ``fatal`` one the ring is unusable."""

    def __init__(self, reason: str, detail: str, *, fatal: bool) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.fatal = fatal
