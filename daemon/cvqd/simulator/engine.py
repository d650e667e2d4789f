"""The task that serves a simulated device: wait until something rings, then give the device a turn.

It shares the event loop with the relay, so each turn is bounded and followed by
a checkpoint.  A late answer only sets the deadline of the wait; it blocks
nothing.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from cvqd.simulator.doorbells import Doorbells


class Served(Protocol):
    """What the engine needs of a device."""

    @property
    def doorbells(self) -> Doorbells:
        """What to wait for."""

    @property
    def next_due(self) -> float | None:
        """When to stop waiting (on the clock of ``trio.current_time``), None for never."""

    def turn(self, now: float) -> bool:
        """Do a bounded amount of work; whether work is left."""


async def run(device: Served) -> None:
    """Serve ``device`` until its doorbells are released."""
    work_left = True
    while await _still_open(device, work_left=work_left):
        work_left = device.turn(trio.current_time())


async def _still_open(device: Served, *, work_left: bool) -> bool:
    """Let others run, or wait until there is something to do; False once the doorbells are released."""
    if work_left:
        await trio.lowlevel.checkpoint()
    else:
        due = device.next_due
        with trio.move_on_at(due) if due is not None else nullcontext():
            try:
                await trio.lowlevel.wait_readable(device.doorbells.fileno())
            except trio.ClosedResourceError:
                return False
    return not device.doorbells.closed


def release(doorbells: Doorbells) -> None:
    """Close the doorbells while a task may be waiting for them; ``run`` then returns."""
    trio.lowlevel.notify_closing(doorbells.fileno())
    doorbells.close()
