"""Rehearsals: a guest is moved, there and back if asked, so that its operator learns how a move would go.

    {"request": "rehearse", "to": NAME, "back": bool, "times": N, "dry": bool}

The answer has the outcome of each move, how long every phase took, and where
the guest is now.  The first failed move ends a rehearsal.  So does a front-end
that leaves between two moves: the answer's ``reason``, else null, says so.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from cvqd.errors import RequestError
from cvqd.migration import Migration
from cvqd.telemetry.move import MOST_ROUNDS, Move

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cvqd.events import EventLog
    from cvqd.frontend.backend import Backend
    from cvqd.host.control import Handler
    from cvqd.owner.devices import Devices
    from cvqd.owner.owner import Owner
    from cvqd.telemetry.move import Kind

SCHEMA: Final = 1

#: seconds between two moves, in which the guest can run
PAUSE: Final = 0.1


class Rehearsals:
    """Runs one rehearsal at a time; relays run in ``nursery``."""

    def __init__(
        self, owner: Owner, backend: Backend, devices: Devices, log: EventLog, nursery: trio.Nursery
    ) -> None:
        self._owner = owner
        self._backend = backend
        self._migration = Migration(owner, devices, log, nursery)
        self._log = log
        self._busy = False

    @property
    def under_way(self) -> bool:
        """Whether a rehearsal is running."""
        return self._busy

    @property
    def handlers(self) -> dict[str, Handler]:
        """Requests by name."""
        return {"rehearse": self.rehearse}

    async def rehearse(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Serve a control request; RequestError if it cannot even begin."""
        to, back, times, dry = _asked(request)
        if self._busy:
            raise RequestError("another rehearsal is under way")
        if not self._owner.running:
            raise RequestError("no guest's driver is running")
        here = self._owner.current.name
        if here == to:
            raise RequestError(f"the guest is on {to!r}")
        moves: list[Move] = []
        # until every move has been made
        verdict, reason = "failed", None
        name = secrets.token_hex(4)
        self._log.emit("rehearsal.started", rehearsal=name, to=to, times=times, back=back, dry=dry)
        self._busy = True
        try:
            for kind, place in _itinerary(here, to, back=back, times=times, dry=dry):
                if moves:
                    await trio.sleep(PAUSE)
                try:
                    await self._backend.move(partial(self._begin, kind, place, moves), self._carry_out)
                except RequestError as error:
                    if not moves:
                        raise
                    reason = str(error)
                    break
                if moves[-1].error is not None:
                    break
            else:
                verdict = "passed"
        finally:
            self._busy = False
            failed = sum(move.error is not None for move in moves)
            longest = max((move.blackout_us for move in moves), default=0)
            self._log.emit(
                "rehearsal.finished",
                rehearsal=name,
                moves=len(moves),
                failed=failed,
                blackout_us=longest,
                verdict=verdict,
            )
        return {
            "schema": SCHEMA,
            "rehearsal": name,
            "from": here,
            "to": to,
            "back": back,
            "times": times,
            "dry": dry,
            "verdict": verdict,
            "reason": reason,
            "guest_on": self._owner.current.name if self._owner.running else None,
            "blackout_us": longest,
            "moves": [move.as_dict() for move in moves],
        }

    def _begin(self, kind: Kind, place: str, moves: list[Move]) -> Move:
        owner = self._owner
        move = Move(self._log, kind, owner.current.name, place, owner.state.digest())
        moves.append(move)
        return move

    async def _carry_out(self, move: Move) -> None:
        await (self._migration.try_dry(move) if move.kind == "dry" else self._migration.switch(move))
        if move.blackout_us:
            self._owner.journal.blackouts.observe(move.blackout_us)


def _asked(request: Mapping[str, Any]) -> tuple[str, bool, int, bool]:
    to, back = request.get("to"), request.get("back", False)
    times, dry = request.get("times", 1), request.get("dry", False)
    if not isinstance(to, str) or not isinstance(back, bool) or not isinstance(dry, bool):
        raise RequestError('"to" is a name, "back" and "dry" are true or false')
    if not isinstance(times, int) or isinstance(times, bool) or not 1 <= times <= MOST_ROUNDS:
        raise RequestError(f'"times" is 1 to {MOST_ROUNDS}')
    if times > 1 and not (back or dry):
        raise RequestError("a guest that is to go several times has to come back")
    return to, back and not dry, times, dry


def _itinerary(here: str, to: str, *, back: bool, times: int, dry: bool) -> Iterator[tuple[Kind, str]]:
    for _ in range(times):
        if dry:
            yield "dry", to
        else:
            yield "switchover", to
            if back:
                yield "switchover", here
