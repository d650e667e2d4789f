"""Status for people: the JSON object of ``status`` or ``probe`` as aligned text on one screen.

It reads the object as it came over the control socket, so a section or key
that an older or newer daemon lacks is left out and not an error.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from cvqd.text import paint
from cvqd.text.paint import PLAIN, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cvqd.text.paint import Paint

_MARGIN: Final = 14
OUTCOMES: Final = ("ok", "err", "refused", "malformed", "expired", "late")
_RECENT: Final = 8

#: words that an operator looks for
STYLES: Final = {
    "running": paint.GREEN,
    "connected": paint.GREEN,
    "isolated": paint.GREEN,
    "ok": paint.GREEN,
    "shared": paint.YELLOW,
    "err": paint.YELLOW,
    "refused": paint.YELLOW,
    "late": paint.YELLOW,
    "widened": paint.YELLOW,
    "malformed": paint.RED,
    "expired": paint.RED,
    "UNCERTAIN": paint.RED,
}
_WORD: Final = re.compile(rf"\b({'|'.join(STYLES)})\b")


def render(status: Mapping[str, Any], width: int = 80, colour: Paint = PLAIN) -> str:
    """Lines for a terminal of ``width`` columns (at least 60), without a final line break."""
    width = max(width, 60)
    lines: list[str] = []
    if "instance" in status:
        lines.append(_row(status["instance"], status.get("phase", "")))
    offered = _offered(status.get("device", {}))
    sections = (
        ("snapshot", _snapshot),
        ("device", _device),
        ("frontend", partial(_frontend, offered)),
        ("isolation", _isolation),
        ("state", _state),
        ("state_log", _state_log),
        ("counters", _counters),
        ("commands", _commands),
    )
    for key, section in sections:
        if status.get(key):
            lines.extend(section(status[key], width))
    return "\n".join(_painted(printable(line.rstrip()), colour) for line in lines)


def _painted(line: str, colour: Paint) -> str:
    """A finished line in colour: names of sections are bold, names within them faint."""
    name, rest = line[:_MARGIN].rstrip(), line[_MARGIN:]
    gap = line[len(name) : _MARGIN]
    style = paint.DIM if name.startswith(" ") else paint.BOLD
    return colour(style, name) + gap + emphasized(rest, colour)


def emphasized(text: str, colour: Paint) -> str:
    """The text with the words that an operator looks for in their colours."""
    return _WORD.sub(lambda found: colour(STYLES[found[0]], found[0]), text)


def _row(name: str, text: str, indent: int = 0) -> str:
    return f"{' ' * indent}{name:<{_MARGIN - indent}}{text}"


def _wrapped(name: str, words: Iterable[str], width: int) -> Iterator[str]:
    """A named list, broken between its words; nothing where it is empty."""
    text = " ".join(words)
    if text:
        yield from _hanging(_row(name, "", 2), text, width)


def _reasons(name: str, reasons: Mapping[str, str], width: int) -> Iterator[str]:
    """Words with a reason each, in two columns; nothing where there are none."""
    longest = max(map(len, reasons), default=0)
    for word, reason in reasons.items():
        yield from _hanging(_row(name, f"{word:<{longest}}  ", 2), reason, width)
        name = ""


def _hanging(head: str, text: str, width: int) -> Iterator[str]:
    """A text after its head, wrapped between words with a hanging indent."""
    room = max(width - len(head), 16)
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > room:
            yield head + line
            head, line = " " * len(head), ""
        line = f"{line} {word}" if line else word
    yield head + line


def _device(device: Mapping[str, Any], width: int) -> Iterator[str]:
    yield _row("device", " ".join(dict.fromkeys((device.get("kind", ""), device.get("path", "")))))
    counts = ("pairs", "queues", "queue_size", "groups", "address_spaces")
    shown = [f"{key.replace('_', ' ')} {device[key]}" for key in counts if key in device]
    yield _row("has", ", ".join(shown), 2)
    yield from _wrapped("features", device.get("features", ()), width)
    masked = {entry["name"]: entry["reason"] for entry in device.get("masked", ())}
    yield from _reasons("masked", masked, width)
    yield from _wrapped("backend", device.get("backend", ()), width)
    yield from _reasons("lacks", device.get("lacks", {}), width)


def _offered(device: Mapping[str, Any]) -> list[str]:
    masked = {entry["name"] for entry in device.get("masked", ())}
    return [name for name in device.get("features", ()) if name not in masked]


def _frontend(offered: Sequence[str], frontend: Mapping[str, Any], width: int) -> Iterator[str]:
    """Features that the guest declined: a shorter list than those it took."""
    yield _row("front-end", "connected" if frontend.get("connected") else "none")
    taken = frontend.get("features", ())
    # before it has chosen it has declined nothing: VERSION_1 at least is always taken
    if taken:
        yield from _wrapped("declined", [name for name in offered if name not in taken] or ["-"], width)
        yield from _wrapped("beside", [name for name in taken if name not in offered], width)
    yield from _wrapped("bridged", map(str, frontend.get("bridged", ())), width)


def _isolation(isolation: Mapping[str, Any], width: int) -> Iterator[str]:
    yield _row("isolation", isolation.get("verdict", ""))
    queues = isolation.get("queues", ())
    if not queues:
        yield from _hanging(_row("reason", "", 2), isolation.get("reason", ""), width)
        return
    yield _row("queue", "role         group  asid  reason", 2)
    for alike, run in groupby(queues, key=_place):
        members = list(run)
        role, group, asid, reason = alike
        first, last = members[0]["index"], members[-1]["index"]
        index = f"{first}" if first == last else f"{first}-{last}"
        role = role or (members[0]["role"] if first == last else "data")
        place = f"{role:<11}  {'-' if group is None else group:>5}  {asid:>4}  "
        yield from _hanging(_row(index, place, 2), reason, width)


def _place(queue: Mapping[str, Any]) -> tuple[str, Any, Any, str]:
    """Data queues of one place are one line; the control queue has its own."""
    control = queue["role"] == "control"
    return ("control" if control else "", queue["group"], queue["asid"], queue["reason"])


def _snapshot(snapshot: Mapping[str, Any], width: int) -> Iterator[str]:
    yield _row("snapshot", f"of {' '.join(dict.fromkeys(snapshot.get('origin', '').split()))}")
    yield from _wrapped("features", snapshot.get("features", ()), width)
    config = snapshot.get("config", {})
    yield _row("offered", f"pairs {snapshot.get('max_pairs', '')}, MTU {config.get('mtu', '')}", 2)
    rings = [
        f"{'-'.join(_ends(run))}: {num} entries, {'running' if base is None else f'at {base}'}"
        for (num, base), run in groupby(
            snapshot.get("rings", ()), key=lambda ring: (ring["num"], ring["base"])
        )
    ]
    yield from _wrapped("rings", _joined(_few(rings, 16), ";"), width)


def _state(state: Mapping[str, Any], width: int) -> Iterator[str]:
    yield _row("state", f"digest {state.get('digest', '')}{'  UNCERTAIN' if state.get('uncertain') else ''}")
    yield _row("mac", state.get("mac", ""), 2)
    yield _row("pairs", str(state.get("pairs", "")), 2)
    yield from _wrapped("receive", [mode for mode, on in state.get("rx", {}).items() if on] or ["-"], width)
    tables = state.get("mac_table", {})
    for kind in ("unicast", "multicast"):
        yield from _wrapped(kind, _few(tables.get(kind, ()), 8), width)
    yield from _wrapped("vlans", _few(_ranges(state.get("vlans", ())), 24), width)
    if state.get("announce"):
        yield _row("announce", "the guest is asked to", 2)
    if state.get("widened"):
        yield _row("widened", "promiscuous: the device does not take the address tables", 2)
    yield from _steering(state.get("steering", {}), width)
    yield from _wrapped("offloads", state.get("offloads", ()), width)
    yield from _wrapped("coalescing", _coalescing(state.get("coalescing", {})), width)


def _state_log(state_log: Mapping[str, Any], width: int) -> Iterator[str]:
    if state_log.get("path"):
        yield _row("kept in", state_log["path"], 2)
    else:
        yield from _hanging(_row("kept", "", 2), f"nowhere: {state_log.get('reason', '')}", width)


def _steering(steering: Mapping[str, Any], width: int) -> Iterator[str]:
    """Nothing for the automatic mode; the share of each receive pair for a table."""
    if steering.get("mode") in (None, "automatic"):
        return
    shares = Counter(steering.get("table", ()))
    words = [f"{pair}: {count}/{shares.total()}" for pair, count in sorted(shares.items())]
    yield from _wrapped("steering", [steering["mode"], *_joined(_few(words, 16))], width)
    yield from _wrapped("hashed", steering.get("hash_types") or ["-"], width)


def _coalescing(coalescing: Mapping[str, Any]) -> list[str]:
    """Queues whose calls may be delayed."""
    kinds = {"all tx": coalescing.get("tx", {}), "all rx": coalescing.get("rx", {})}
    kinds |= {f"queue {index}": values for index, values in coalescing.get("queues", {}).items()}
    said = [
        f"{name}: {values['packets']} packets or {values['usecs']} µs"
        for name, values in kinds.items()
        if values.get("packets") or values.get("usecs")
    ]
    return _joined(_few(said, 8))


def _counters(counters: Mapping[str, Any], width: int) -> Iterator[str]:
    answers = counters.get("answers", {})
    seen = {outcome for outcomes in answers.values() for outcome in outcomes}
    columns = [outcome for outcome in OUTCOMES if outcome in seen or outcome == "ok"]
    head = f"{'':<18}" + "".join(f"{outcome:>10}" for outcome in columns)
    yield _row("commands", head if answers else "none")
    for command, outcomes in answers.items():
        yield _row("", f"{command:<18}" + "".join(f"{outcomes.get(outcome, ''):>10}" for outcome in columns))
    yield from _wrapped("reasons", _counted(counters.get("refusals", {})), width)
    yield from _wrapped("counted", _counted(counters.get("other", {})), width)


def _counted(numbers: Mapping[str, int]) -> list[str]:
    return _joined([f"{name} {count}" for name, count in numbers.items() if count])


def _commands(commands: Sequence[Mapping[str, Any]], width: int) -> Iterator[str]:
    name = "last"
    for command in commands[-_RECENT:]:
        text = f"{command['command_id']:>5}  {command['command']:<18}  {command['outcome']:<9}"
        head = _row(name, f"{text}{command['elapsed_us']:>7} µs  ")
        yield from _hanging(head, command.get("reason", ""), width)
        name = ""


def _ends(run: Iterable[Mapping[str, Any]]) -> list[str]:
    """First and last index of rings that follow each other; of one ring, its own."""
    indices = [str(ring["index"]) for ring in run]
    return list(dict.fromkeys((indices[0], indices[-1])))


def _joined(words: Sequence[str], mark: str = ",") -> list[str]:
    return [f"{word}{mark}" for word in words[:-1]] + list(words[-1:])


def _few(words: Sequence[str], most: int) -> list[str]:
    return list(words) if len(words) <= most else [*words[:most], f"… {len(words)} in all"]


def _ranges(numbers: Sequence[int]) -> list[str]:
    """``1-3 7`` for 1, 2, 3, 7."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ["-".join(map(str, ends)) for ends in found]
