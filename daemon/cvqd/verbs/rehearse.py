"""``cvqd rehearse``: have a running guest moved to another device, to learn how that goes."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

from cvqd.telemetry.move import MOST_ROUNDS
from cvqd.verbs import instances
from cvqd.verbs.whole_number import up_to

if TYPE_CHECKING:
    import argparse

    from cvqd.client.control import Following
    from cvqd.verbs import Verbs

#: exit codes: where the guest is after a move that failed
FAILED: Final = 1
ELSEWHERE: Final = 2
NOWHERE: Final = 3
#: nothing happened to the guest
EX_TEMPFAIL: Final = 75

#: seconds that one move may take: a device that pins a large guest's memory takes its time
_MOVE: Final = 120.0
#: seconds to wait for the log's last lines after the answer
_LAST_WORDS: Final = 1.0


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    rehearse = verbs.add_parser(
        "rehearse",
        help="move a running guest to another device, and back, to learn how that goes",
        description="Move a running guest to a target of its configuration while its front-end stays"
        " connected. For each move, JSON on standard output tells how long its phases took, how long no data"
        " queue ran, how many commands were replayed, the state's digest before and after, and where the"
        " guest is. The first move that fails is the last; the guest then goes on where it was before that"
        " move, if it can. Ctrl-C ends the waiting, not the rehearsal.",
        epilog="Exit status: 0 every move passed; 69 no such instance runs; 75 nothing happened to the guest,"
        " with the reason; 77 no permission to ask; after a move that failed: 1 the guest is where it was at"
        " the beginning, 2 it is on the other device, 3 it is on neither until its next kick.",
    )
    rehearse.set_defaults(verb=_rehearse, wrong=rehearse.error)
    instances.choose(rehearse, one=True)
    rehearse.add_argument(
        "--to",
        metavar="NAME",
        required=True,
        help="where to: one of the configuration's `targets`, or `device` for its device",
    )
    rehearse.add_argument("--back", action="store_true", help="then move it back to where it is now")
    rehearse.add_argument(
        "--times",
        metavar="N",
        type=up_to(MOST_ROUNDS),
        default=1,
        help=f"repeat for N rounds, 1 to {MOST_ROUNDS}; more than one needs --back or --dry",
    )
    rehearse.add_argument(
        "--dry", action="store_true", help="only suspend the device, compare it with the target, and resume"
    )


def _rehearse(options: argparse.Namespace) -> int:
    if options.times > 1 and not (options.back or options.dry):
        options.wrong("--times needs --back or --dry")
    (path,) = instances.control_sockets(options)
    moves = options.times * (2 if options.back and not options.dry else 1)
    words = {"to": options.to, "back": options.back, "times": options.times, "dry": options.dry}
    watched = sys.stderr.isatty()
    try:
        answer = (_ask_aloud if watched else _ask)(path, _MOVE * moves, words)
    except KeyboardInterrupt:
        print("cvqd: the instance goes on with the rehearsal; its log says what comes of it", file=sys.stderr)
        raise
    print(json.dumps(answer, indent=2))
    if not watched and (why := shortcoming(answer)):
        print(f"cvqd: {why}", file=sys.stderr)
    return exit_code(answer)


def _ask(path: str, timeout: float, words: dict[str, Any]) -> dict[str, Any]:
    from cvqd.client.control import ask

    return ask(path, "rehearse", timeout=timeout, **words)


def _ask_aloud(path: str, timeout: float, words: dict[str, Any]) -> dict[str, Any]:
    """Ask, and meanwhile report each move's progress from the log on standard error."""
    from threading import Thread

    from cvqd.client.control import ControlError, Following

    try:
        log = Following(path, "follow")
    except ControlError as error:
        if error.exit_code != EX_TEMPFAIL:
            raise
        # others follow the log: that is no reason not to rehearse
        print(f"cvqd: {error}; the rehearsal begins without a view of its progress", file=sys.stderr)
        return _ask(path, timeout, words)
    # a daemon that refuses logs nothing that would end this thread
    reader = Thread(target=_say_progress, args=(log,), daemon=True)
    reader.start()
    answer = _ask(path, timeout, words)
    reader.join(_LAST_WORDS)
    return answer


def _say_progress(log: Following) -> None:
    from cvqd.client.control import ControlError

    try:
        for line in log:
            if words := progress(line):
                print(f"cvqd: {words}", file=sys.stderr)
            if line.get("event") == "rehearsal.finished":
                return
    except ControlError:
        # the answer says what matters
        return


def progress(line: dict[str, Any]) -> str | None:
    """What a log line says about a move; None if it is about something else."""
    match line.get("event"):
        case "switchover.started":
            return f"{line['source']} to {line['target']}" + (", dry" if line["kind"] == "dry" else "")
        case "switchover.phase":
            return f"  {line['phase']:8} {line['elapsed_us'] / 1000:9.1f} ms"
        case "switchover.failed":
            where = f"{line['phase']:8} " if line["phase"] else ""
            return f"  {where}failed, the guest is on the {line['guest_on']}: {line['reason']}"
        case "switchover.finished":
            return f"  blackout {line['blackout_us'] / 1000:9.1f} ms"
    return None


def shortcoming(answer: dict[str, Any]) -> str | None:
    """Why not every move passed, for a standard error that is no terminal; None if all did."""
    if answer["verdict"] == "passed":
        return None
    if answer["reason"] is not None:
        return str(answer["reason"])
    last = answer["moves"][-1]
    where = f" in {last['phase']}" if last["phase"] else ""
    return f"{last['source']} to {last['target']}: {last['verdict']}{where}: {last['reason']}"


def exit_code(answer: dict[str, Any]) -> int:
    """Exit code of the verb."""
    if answer["verdict"] == "passed":
        return 0
    if answer["guest_on"] is None:
        return NOWHERE
    if answer["guest_on"] != answer["from"]:
        return ELSEWHERE
    return EX_TEMPFAIL if answer["moves"][0]["verdict"] == "refused" else FAILED
