"""The log: catalogue events to lines on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cvqd.host.log_sink import Sink


class StructuredLog:
    """Satisfies ``events.EventLog``; emit only from the thread of the event loop."""

    def __init__(
        self,
        sink: Sink,
        *,
        instance: str,
        device: str,
        level: str = "info",
        format: str = "auto",  # noqa: A002 -- the configuration's word
    ) -> None:
        raise NotImplementedError

    def emit(self, name: str, /, *, mono_ns: int | None = None, **fields: object) -> None:
        """Write one line; see ``events.EventLog``."""
        raise NotImplementedError

    def enabled(self, name: str, /) -> bool:
        """Whether the level lets this event through."""
        raise NotImplementedError

    def set_level(self, level: str) -> None:
        """Change the level of a running log."""
        raise NotImplementedError

    async def flush_task(self) -> None:
        """Write buffered lines whenever standard error takes them; runs until cancelled."""
        raise NotImplementedError

    def close(self, *, timeout: float = 0.2) -> None:
        """Give buffered lines a last chance of ``timeout`` seconds."""
        raise NotImplementedError
