"""Planned misbehaviour: which command or call, how, and how often.

Sans-IO: it decides, ``cvq`` and ``device`` act on it.  A fault is used up when it is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvqd.simulator.spec import CallFault, Fault


class FaultPlan:
    """The faults of the control queue that are still to come, in the order they were given."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        #: each with the number of commands that succeed before the next fault, and of faults to come
        self._left: list[tuple[Fault, int, int]] = []
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """Plan one more."""
        self._left.append((fault, fault.every - 1, fault.count))

    def __bool__(self) -> bool:
        return bool(self._left)

    def take(self, command: str) -> Fault | None:
        """The fault for a command of this log name (``mac.addr_set``), if one is due."""
        for place, (fault, well, left) in enumerate(self._left):
            if fault.command not in {command, "*"}:
                continue
            if well:
                self._left[place] = (fault, well - 1, left)
                continue
            if left > 1:
                self._left[place] = (fault, fault.every - 1, left - 1)
            else:
                del self._left[place]
            return fault
        return None

    def clear(self) -> None:
        """Drop all planned faults."""
        self._left.clear()


class CallFaultPlan:
    """The calls that are still to fail."""

    def __init__(self, faults: Iterable[CallFault] = ()) -> None:
        #: each with the number of calls that succeed first, and of calls that then fail
        self._left: list[tuple[CallFault, int, int]] = []
        for fault in faults:
            self.add(fault)

    def add(self, fault: CallFault) -> None:
        """Plan one more."""
        self._left.append((fault, fault.after, fault.count))

    def take(self, call: str) -> CallFault | None:
        """The fault for a call of this name (``suspend``), if one is due."""
        due = None
        for place, (fault, well, left) in enumerate(self._left):
            if fault.call != call or not left:
                continue
            if well:
                self._left[place] = (fault, well - 1, left)
            elif due is None:
                due = fault
                self._left[place] = (fault, 0, left - 1)
        return due
