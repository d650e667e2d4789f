"""Commands that a guest gave and that have no answer yet, as far as a log tells.

Only a log at debug level says that a command was received.  A line that is
missing may be the answer, so nothing is claimed across a gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.report.line import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cvqd.report.line import Line

#: the longest ring that virtio has, so more cannot be in flight
MOST: Final = 32768
#: the longest deadline that a configuration takes
PATIENCE_NS: Final = 60 * 10**9

#: events that tell of an answer
ANSWERS: Final = frozenset(
    {"cvq.command.acked", "cvq.command.refused", "cvq.command.expired", "cvq.chain.malformed"}
)


class InFlight:
    """The commands of one run of a device; their ids begin anew with the next."""

    def __init__(self) -> None:
        self._waiting: dict[int, Line] = {}

    def received(self, line: Line) -> None:
        """A command was popped."""
        command_id = number(line.fields, "command_id")
        if command_id is None:
            return
        self._waiting[command_id] = line
        if len(self._waiting) > MOST:
            self._waiting.clear()

    def answered(self, line: Line) -> None:
        """The guest has its answer."""
        command_id = number(line.fields, "command_id")
        if command_id is not None:
            self._waiting.pop(command_id, None)

    def excuse(self) -> None:
        """Answers may be among lines that are not in the log."""
        self._waiting.clear()

    def ended(self) -> Iterator[Line]:
        """Commands that will have no answer any more, because the device or the daemon ended."""
        waiting, self._waiting = self._waiting, {}
        yield from waiting.values()

    def overdue(self, now_ns: int) -> Iterator[Line]:
        """Commands that should have been answered by now, in a log that just ends."""
        for line in self.ended():
            if now_ns - line.mono_ns > PATIENCE_NS:
                yield line
