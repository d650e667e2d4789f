"""A guest's commands that have no answer yet, as far as a log tells.

Only a log at debug level says that a command was received.  A line that is
missing may be the answer, so nothing is claimed across a gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd.report.line import number

if TYPE_CHECKING:
    from cvqd.report.line import Line

#: the longest ring that virtio has, so more cannot be in flight
MOST: Final = 32768
#: the longest deadline that a configuration takes
PATIENCE_NS: Final = 60 * 10**9

#: lines left out are reported a second later (``host.logging``), or when the daemon gets round to it
ACCOUNT_NS: Final = 3 * 10**9

#: events that tell of an answer
ANSWERS: Final = frozenset(
    {"cvq.command.acked", "cvq.command.refused", "cvq.command.expired", "cvq.chain.malformed"}
)


class InFlight:
    """The commands of one run of a device; their ids begin anew with the next."""

    def __init__(self) -> None:
        self._waiting: dict[int, Line] = {}
        #: commands whose device was stopped, and when
        self._ended: list[tuple[Line, int]] = []

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
        self._ended.clear()

    def device_ended(self, now_ns: int) -> None:
        """What is in flight gets no answer now; a report of lines left out may still explain that."""
        self._ended += [(line, now_ns) for line in self._waiting.values()]
        self._waiting.clear()
        # devices end for ever at one moment only where a clock stands still
        if len(self._ended) > 2 * MOST:
            self._ended.clear()

    def unanswered(self, now_ns: int) -> list[Line]:
        """Commands whose device stopped without an answer, once no line can explain that any more."""
        if not self._ended or now_ns - self._ended[0][1] <= ACCOUNT_NS:
            return []
        found = [line for line, ended_ns in self._ended if now_ns - ended_ns > ACCOUNT_NS]
        del self._ended[: len(found)]
        return found

    def log_ended(self, open_ns: int | None) -> tuple[list[Line], list[Line]]:
        """Unanswered commands: those whose device stopped, and those in flight at the end of the log.

        If the log just ends, at ``open_ns``, only those that should have been answered by then.
        """
        waiting = list(self._waiting.values())
        if open_ns is not None:
            waiting = [line for line in waiting if open_ns - line.mono_ns > PATIENCE_NS]
        return [line for line, _ in self._ended], waiting
