"""A guest that left one daemon and came to another: two logs, joined by the digest of the state it carried.

Each side has a clock.  Daemons of one boot of one host share the monotonic
clock; those of two hosts have only wall time in common, as good as their NTP.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from cvqd.report.line import number, word
from cvqd.report.move import Move, Phase

if TYPE_CHECKING:
    from cvqd.report.line import Line
    from cvqd.report.move import Tick

#: migrations, whole or with one side missing, that are kept while more lines may come
WAITING: Final = 500
#: difference of wall and monotonic time of two daemons of one boot, at most; lines have ms
_ONE_BOOT_NS: Final = 100_000_000


@dataclass(slots=True)
class Departure:
    """The source's side: the device stopped, the state was saved."""

    saved: Line
    rings: frozenset[int]
    stopped: Line | None
    ticks: list[Tick]
    #: the source started again and nothing was loaded before: the guest is back
    returned: Line | None = None

    @property
    def line(self) -> Line:
        """The line that names the state."""
        return self.saved


@dataclass(slots=True)
class Arrival:
    """The destination's side: the state was loaded, replayed, the device started."""

    loaded: Line
    replayed: list[Line] = field(default_factory=list)
    started: Line | None = None
    #: the destination discarded the state
    unused: Line | None = None
    rings: frozenset[int] | None = None
    ticks: list[Tick] = field(default_factory=list)

    @property
    def line(self) -> Line:
        """The line that names the state."""
        return self.loaded


Sides = tuple[Departure | None, Arrival | None]


class Pairs:
    """Joins departures and arrivals of different daemons, in either order, as they have two clocks."""

    def __init__(self) -> None:
        self.joined: list[Sides] = []
        self._departures: deque[Departure] = deque()
        self._arrivals: deque[Arrival] = deque()

    def depart(self, departure: Departure) -> None:
        """A state was saved."""
        arrival = _other_half(departure, self._arrivals)
        if arrival is not None:
            self.joined.append((departure, arrival))
            return
        self._departures.append(departure)
        if len(self._departures) > WAITING:
            self.joined.append((self._departures.popleft(), None))

    def arrive(self, arrival: Arrival) -> None:
        """A state was loaded."""
        departure = _other_half(arrival, self._departures)
        if departure is not None:
            self.joined.append((departure, arrival))
            return
        self._arrivals.append(arrival)
        if len(self._arrivals) > WAITING:
            self.joined.append((None, self._arrivals.popleft()))

    def take_old(self) -> list[Sides]:
        """Migrations so long ago that no more lines about them can come; usually none."""
        if len(self.joined) <= 2 * WAITING:
            return []
        old, self.joined = self.joined[:WAITING], self.joined[WAITING:]
        return old

    def conclude(self) -> list[Sides]:
        """All others, including those with one side only."""
        alone: list[Sides] = [(departure, None) for departure in self._departures]
        alone += [(None, arrival) for arrival in self._arrivals]
        return self.joined + alone


Half = TypeVar("Half", Departure, Arrival)


def _other_half(one: Departure | Arrival, waiting: deque[Half]) -> Half | None:
    """Take out the latest half that carries the same state in another daemon."""
    digest, run_id = one.line.fields.get("digest"), one.line.fields["run_id"]
    for index in range(len(waiting) - 1, -1, -1):
        fields = waiting[index].line.fields
        if fields.get("digest") == digest and fields["run_id"] != run_id:
            found = waiting[index]
            del waiting[index]
            return found
    return None


def joined(count: int, departure: Departure | None, arrival: Arrival | None) -> Move:
    """The move that both sides, or the only one, describe."""
    first = departure.line if departure else arrival.line if arrival else None
    assert first is not None
    clock = _Clock(departure, arrival)
    name = word(first.fields, "digest")
    move = Move(count, "migration", name, first, first, 0, digest_before=name)
    if departure is not None:
        _leave(move, departure, clock)
    if arrival is not None:
        _come(move, arrival, clock)
    move.clock = clock.known_as
    return move


class _Clock:
    """Moments of both sides in ns on one clock."""

    def __init__(self, departure: Departure | None, arrival: Arrival | None) -> None:
        offsets = {
            side.line.fields["run_id"]: (side.line.wall_us or 0) * 1000 - side.line.mono_ns
            for side in (departure, arrival)
            if side is not None
        }
        self.known_as = ""
        if max(offsets.values()) - min(offsets.values()) < _ONE_BOOT_NS:
            offsets = dict.fromkeys(offsets, 0)
        elif departure is not None and arrival is not None:
            self.known_as = "wall clocks of two hosts"
            saved, loaded = (
                side.line.mono_ns + offsets[side.line.fields["run_id"]] for side in (departure, arrival)
            )
            if loaded < saved:
                self.known_as += "; the destination's is behind, so that the blackout was longer"
                offsets[arrival.line.fields["run_id"]] += saved - loaded
        self._offsets = offsets

    def __call__(self, line: Line) -> int:
        return line.mono_ns + self._offsets[line.fields["run_id"]]

    def ticks(self, ticks: list[Tick], line: Line) -> list[Tick]:
        """Commands of the line's run."""
        offset = self._offsets[line.fields["run_id"]]
        return [tick._replace(mono_ns=tick.mono_ns + offset) for tick in ticks]


def _leave(move: Move, departure: Departure, clock: _Clock) -> None:
    saved = departure.saved
    move.source = _side(saved)
    move.rings_before = departure.rings
    move.ticks += clock.ticks(departure.ticks, saved)
    stopped, end = clock(departure.stopped or saved), clock(saved)
    move.begin_ns = min(stopped, end)
    move.phases.append(_phase("save", move.begin_ns, end))
    if departure.returned is not None:
        move.last = departure.returned
        move.failed_phase, move.guest_on = "carry", "source"
        move.reason = "the source was started again, and no other daemon had loaded its state"


def _come(move: Move, arrival: Arrival, clock: _Clock) -> None:
    loaded = clock(arrival.loaded)
    move.target, move.last = _side(arrival.loaded), arrival.loaded
    if move.phases:
        move.phases.append(_phase("carry", move.phases[-1].end_ns, loaded))
    else:
        move.begin_ns = loaded
    move.ticks += clock.ticks(arrival.ticks, arrival.loaded)
    for line in arrival.replayed:
        move.replayed = (move.replayed or 0) + (number(line.fields, "commands") or 0)
        move.digest_after = word(line.fields, "digest")
    if arrival.unused is not None:
        move.last, move.end_ns = arrival.unused, clock(arrival.unused)
        move.failed_phase, move.reason = "set up", word(arrival.unused.fields, "reason")
    if arrival.started is None:
        return
    move.last, move.rings_after = arrival.started, arrival.rings
    move.end_ns = end = clock(arrival.started)
    begun = max(loaded, end - 1000 * (number(arrival.started.fields, "elapsed_us") or 0))
    move.phases.append(_phase("set up", loaded, begun))
    for line in arrival.replayed:
        replay = clock(line)
        move.phases.append(Phase("replay", replay, number(line.fields, "elapsed_us") or 0))
        begun = max(begun, replay)
    move.phases.append(_phase("start", begun, end))
    if move.source:
        move.blackout_us = max(end - move.begin_ns, 0) // 1000


def _phase(name: str, begin: int, end: int) -> Phase:
    return Phase(name, end, max(end - begin, 0) // 1000)


def _side(line: Line) -> str:
    return f"{line.instance} on {word(line.fields, 'device')}"
