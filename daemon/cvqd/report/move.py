"""One move of a guest: from a device to another, or a dry rehearsal of it.

Times of one move are ns on one clock.  For a switchover that is the daemon's
monotonic clock; for a migration between two daemons see ``migration``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from cvqd.report.line import number, word

if TYPE_CHECKING:
    from cvqd.report.line import Fields, Line

#: phases in their order, for every kind of move
PHASES: Final = {
    "switchover": ("prepare", "suspend", "indices", "replay", "start"),
    "dry": ("suspend", "snapshot", "compare", "resume"),
    "migration": ("save", "carry", "set up", "replay", "start"),
}
#: the phase at whose end the guest's data queues are served again
_SERVED: Final = ("start", "resume")


#: where a move that failed leaves the guest
_WHERE: Final = {
    "source": "; the guest is on the source",
    "target": "; the guest is on the target",
    "neither": "; the guest runs nowhere until its next start",
}


class Phase(NamedTuple):
    """One phase with its end and how long it took."""

    name: str
    end_ns: int
    elapsed_us: int

    @property
    def begin_ns(self) -> int:
        """When it began."""
        return self.end_ns - self.elapsed_us * 1000


class Tick(NamedTuple):
    """A guest's command that had its answer at ``mono_ns``; ``outcome`` is ok, err, refused or expired."""

    mono_ns: int
    command: str
    outcome: str
    elapsed_us: int | None


#: event that tells of an answer -> outcome; acked is ok or err
_OUTCOMES: Final = {
    "cvq.command.acked": "ok",
    "cvq.command.refused": "refused",
    "cvq.command.expired": "expired",
}


def tick(mono_ns: int, fields: Fields) -> Tick:
    """The command that a line of ``cvq.command.*`` tells of."""
    outcome = _OUTCOMES.get(fields["event"], "err")
    if outcome == "ok" and fields.get("ack") != 0:
        outcome = "err"
    return Tick(mono_ns, word(fields, "command"), outcome, number(fields, "elapsed_us"))


@dataclass(slots=True)
class Move:
    """What the lines tell of one move; ``number`` counts the moves of a report from 1.

    ``line`` is the one that opened it, ``last`` the latest; ``blackout_us`` and
    the digests are None or empty where no line tells.
    """

    number: int
    kind: str
    name: str
    line: Line
    last: Line
    begin_ns: int
    source: str = ""
    target: str = ""
    rehearsal: str = ""
    end_ns: int | None = None
    phases: list[Phase] = field(default_factory=list)
    blackout_us: int | None = None
    #: number of commands that put the state into the target
    replayed: int | None = None
    digest_before: str = ""
    digest_after: str = ""
    rings_before: frozenset[int] = frozenset()
    rings_after: frozenset[int] | None = None
    failed_phase: str = ""
    reason: str = ""
    guest_on: str = ""
    #: a remark if the two sides have no common clock
    clock: str = ""
    ticks: list[Tick] = field(default_factory=list)
    #: kinds of the anomalies that belong to it
    anomalies: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """``well``, ``odd`` (it ended, but see its anomalies), ``failed``, ``unfinished`` or ``half``.

        ``half`` is a migration of which these logs hold one side only.
        """
        if self.failed_phase or self.reason:
            return "failed"
        if self.kind == "migration" and not (self.source and self.target) and not self.anomalies:
            return "half"
        if self.end_ns is None:
            return "unfinished"
        return "odd" if self.anomalies else "well"

    @property
    def blackout_ns(self) -> tuple[int, int] | None:
        """When the guest's data queues stood still: it ends with the phase that serves them again."""
        if self.blackout_us is None or self.end_ns is None:
            return None
        ends = [phase.end_ns for phase in self.phases if phase.name in _SERVED]
        end = ends[-1] if ends else self.end_ns
        return end - self.blackout_us * 1000, end

    @property
    def span_ns(self) -> tuple[int, int]:
        """From its first moment to its last."""
        moments = [self.begin_ns, *(phase.begin_ns for phase in self.phases)]
        ends = [self.begin_ns, *(phase.end_ns for phase in self.phases)]
        if self.end_ns is not None:
            ends.append(self.end_ns)
        return min(moments), max(ends)

    @property
    def elapsed_us(self) -> int:
        """Duration of the whole move in µs."""
        begin, end = self.span_ns
        return (end - begin) // 1000

    @property
    def failure(self) -> str:
        """What went wrong and where that leaves the guest; empty for a move that did not fail."""
        if not (self.failed_phase or self.reason):
            return ""
        where = _WHERE.get(self.guest_on, "")
        phase = f"in {self.failed_phase}: " if self.failed_phase else ""
        return f"{phase}{self.reason}{where}"

    @property
    def lost_rings(self) -> frozenset[int]:
        """Rings that ran before it and not after it."""
        return frozenset() if self.rings_after is None else self.rings_before - self.rings_after

    def order(self) -> None:
        """Put phases and commands in order of time."""
        known = PHASES[self.kind]
        self.phases.sort(
            key=lambda phase: (known.index(phase.name) if phase.name in known else len(known), phase.end_ns)
        )
        self.ticks.sort(key=lambda tick: tick.mono_ns)

    def commands(self) -> tuple[list[Tick], list[Tick], list[Tick]]:
        """The guest's commands before, during and after it, as far as they are kept."""
        begin, end = self.span_ns
        before = [tick for tick in self.ticks if tick.mono_ns <= begin]
        during = [tick for tick in self.ticks if begin < tick.mono_ns <= end]
        return before, during, [tick for tick in self.ticks if tick.mono_ns > end]
