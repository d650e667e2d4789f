"""Planned misbehaviour of the control queue: which command, how, how often.

Sans-IO: it decides, ``cvq`` does.  A fault is spent when it is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvqd.simulator.spec import Fault


class FaultPlan:
    """The faults that are still to come, in the order they were given."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._left: list[tuple[Fault, int]] = [(fault, fault.count) for fault in faults]

    def add(self, fault: Fault) -> None:
        """Plan one more."""
        self._left.append((fault, fault.count))

    def __bool__(self) -> bool:
        return bool(self._left)

    def take(self, command: str) -> Fault | None:
        """The fault for a command of this log name (``mac.addr_set``), if one is due."""
        for place, (fault, left) in enumerate(self._left):
            if fault.command in {command, "*"}:
                if left > 1:
                    self._left[place] = (fault, left - 1)
                else:
                    del self._left[place]
                return fault
        return None

    def clear(self) -> None:
        """Behave from now on."""
        self._left.clear()
