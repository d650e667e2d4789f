"""What ``cvqd watch`` shows: one instance on one screen, its last events below.

It is redrawn each time from what is known, for the terminal's current size, and
does no I/O.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cvqd.text import event_text, paint
from cvqd.text.paint import printable
from cvqd.text.status_text import OUTCOMES, emphasized

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cvqd.text.paint import Paint

_MARGIN: Final = 12
#: events that are kept: more lines than a terminal has
_KEPT: Final = 500

Counts = dict[str, dict[str, int]]


@dataclass(slots=True)
class View:
    """What is known; ``missing`` says why the instance does not answer, empty while it does."""

    name: str
    status: Mapping[str, Any] = field(default_factory=dict)
    #: commands per second since the status before
    rates: dict[str, float] = field(default_factory=dict)
    events: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    missing: str = ""

    def take(self, status: Mapping[str, Any], seconds: float) -> None:
        """Take in a new status, ``seconds`` after the one before."""
        before, now = _answers(self.status), _answers(status)
        self.rates = {
            command: (_total(now[command]) - _total(before.get(command, {}))) / seconds for command in now
        }
        # rates are unknown before the second status, and across a restart
        if not self.status or any(rate < 0 for rate in self.rates.values()):
            self.rates = {}
        self.status, self.missing = status, ""


def screen(view: View, clock: str, width: int, height: int, colour: Paint) -> list[str]:
    """At most ``height`` lines of at most ``width`` columns."""
    lines = [_title(view, clock, width, colour)]
    if view.missing:
        lines.append(colour(paint.RED, printable(view.missing)[:width]))
    lines += [_row(name, text, width, colour) for name, text in _summary(view)]
    table = _table(view)
    # the events have at least half of what is left
    rows = (height - len(lines) - 2) // 2
    # a head with nothing below it but the number of rows left out is no table
    if table and rows >= min(3, len(table)):
        head, *commands = table
        lines += ["", colour(paint.BOLD, head[:width])]
        lines += [emphasized(printable(line[:width]), colour) for line in commands[: rows - 1]]
        if len(commands) > rows - 1:
            lines[-1] = colour(paint.DIM, f"… {len(commands) - rows + 2} more"[:width])
    lines += ["", colour(paint.BOLD, "events"[:width])]
    room = height - len(lines)
    shown = list(view.events)[-room:] if room > 0 else []
    lines += [event_text.as_line(event, width, colour) for event in shown]
    return lines[:height]


def _title(view: View, clock: str, width: int, colour: Paint) -> str:
    device = view.status.get("device", {})
    parts = [
        view.name,
        str(view.status.get("phase", "")) if not view.missing else "gone",
        str(device.get("path") or device.get("kind", "")),
    ]
    left = printable("  ".join(filter(None, parts)))
    right = f"{clock} UTC  q: quit"
    gap = max(2, width - len(left) - len(right))
    return colour(paint.BOLD, f"{left}{'':<{gap}}{right}"[:width])


def _summary(view: View) -> list[tuple[str, str]]:
    status = view.status
    if not status:
        return []
    state, other = status.get("state", {}), status.get("counters", {}).get("other", {})
    tables = state.get("mac_table", {})
    modes = " ".join(mode for mode, on in state.get("rx", {}).items() if on) or "-"
    filters = [f"{kind} {len(tables.get(kind, ()))}" for kind in ("unicast", "multicast")]
    filters.append(f"vlans {len(state.get('vlans', ()))}")
    counted = [f"{name} {count}" for name, count in other.items() if count]
    rate = f"{sum(view.rates.values()):.1f}/s" if view.rates else "-"
    connected = "connected" if status.get("frontend", {}).get("connected") else "none"
    return [
        ("front-end", connected),
        ("isolation", str(status.get("isolation", {}).get("verdict", ""))),
        ("state", f"{state.get('digest', '')}{'  UNCERTAIN' if state.get('uncertain') else ''}"),
        ("", f"mac {state.get('mac', '')}, pairs {state.get('pairs', '')}, receive {modes}"),
        ("", ", ".join(filters)),
        ("commands", ", ".join([rate, *counted])),
    ]


def _row(name: str, text: str, width: int, colour: Paint) -> str:
    line = printable(f"{name:<{_MARGIN}}{text}")[:width]
    return colour(paint.BOLD, line[: len(name)]) + emphasized(line[len(name) :], colour)


def _table(view: View) -> list[str]:
    """Commands by outcome, the most frequent first; nothing where there were none."""
    answers = _answers(view.status)
    if not answers:
        return []
    seen = {outcome for outcomes in answers.values() for outcome in outcomes}
    columns = [outcome for outcome in OUTCOMES if outcome in seen]
    rows = [f"{'command':<20}" + "".join(f"{outcome:>10}" for outcome in columns) + f"{'/s':>8}"]
    for command in sorted(answers, key=lambda command: (-_total(answers[command]), command)):
        counts = "".join(f"{answers[command].get(outcome, ''):>10}" for outcome in columns)
        rate = view.rates.get(command, 0.0)
        rows.append(f"{command:<20}{counts}{f'{rate:.1f}' if rate else '':>8}".rstrip())
    return rows


def _answers(status: Mapping[str, Any]) -> Counts:
    found: Counts = status.get("counters", {}).get("answers", {})
    return found


def _total(outcomes: Mapping[str, int]) -> int:
    """Number of commands; a late answer is not another one."""
    return sum(count for outcome, count in outcomes.items() if outcome != "late")
