"""What happens in the demonstration, and what must be true after each step.

The checks look from both ends: at the daemon's status and log, and at which
frames come back to the guest through the device's receive filter.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from cvqd.demo.player import Frame
from cvqd.testing.daemon import OUTCOMES, DaemonError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager

    from cvqd.demo.player import Player
    from cvqd.demo.screen import Screen
    from cvqd.testing.daemon import DaemonProcess

NEW_MAC: Final = "52:54:00:c0:ff:ee"
VLAN: Final = 5
#: seconds for a guest's commands to come after the action that causes them
_PATIENCE: Final = 5.0


class Either(tuple[str, ...]):
    """Names of commands of which any one will do."""

    __slots__ = ()


#: with RSS, Linux since 6.12 sets the number of pairs in the command that sets the table
USE_PAIRS: Final = Either(("mq.vq_pairs_set", "mq.rss_config"))


class Answer(NamedTuple):
    """One control command: its name, whether the device said OK, microseconds from kick to answer."""

    command: str
    ok: bool
    elapsed_us: int


class Stage:
    """The daemon, the guest and the screen, and what the steps have in common."""

    def __init__(self, screen: Screen, daemon: DaemonProcess, player: Player) -> None:
        self.screen = screen
        self.daemon = daemon
        self.player = player
        self.status: dict[str, Any] = {}

    @property
    def state(self) -> dict[str, Any]:
        """Tracked state as of the last step."""
        state: dict[str, Any] = self.status["state"]
        return state

    async def act(self, title: str, action: Coroutine[Any, Any, str], *commands: str | Either) -> None:
        """Let the guest act, show the result, and check that it sent ``commands``, all acknowledged."""
        wanted = [Either((command,)) if isinstance(command, str) else command for command in commands]
        with closing(action):  # where nobody reads the title any more it never begins
            self.screen.title(title)
            mark = len(self.daemon.events)
            self.screen.lines("guest", [await action])
        with suppress(DaemonError):  # the check below says which is missing
            for either in wanted:
                await self._answered(either, mark)
        self.status = await self.daemon.told()
        answers = self._answers(mark)
        self.screen.lines("device", _table(answers) or ["no command"])
        self.screen.lines("tracked", [_summary(self.state)])
        names = {answer.command for answer in answers}
        self.screen.check(
            f"the device acknowledged {_listed([' or '.join(either) for either in wanted])}",
            holds=all(map(names.intersection, wanted)) and all(answer.ok for answer in answers),
            instead=answers,
        )

    def tracked(self, key: str, value: object) -> None:
        """Check one value of the tracked state."""
        found = self.state[key]
        self.screen.check(f"cvqd tracks {key} {_shown(value)}", holds=found == value, instead=_shown(found))

    async def frames(self, *expected: tuple[Frame, str, bool]) -> None:
        """Send frames; each comes back exactly if the filter should let it through."""
        came = await self.player.send([frame for frame, _, _ in expected])
        for (_, name, wanted), back in zip(expected, came, strict=True):
            verb = "comes back" if wanted else "does not come back"
            self.screen.check(f"{name} {verb}", holds=back is wanted, instead="back" if back else "lost")

    async def _answered(self, either: Either, mark: int) -> None:
        """Wait for an answer: since 6.12 Linux sets receive modes from a work queue, behind the action."""
        await self.daemon.until(
            lambda event: event["event"] in OUTCOMES and event.get("command") in either,
            f"of {either}",
            after=mark,
            deadline=_PATIENCE,
        )

    def _answers(self, mark: int) -> list[Answer]:
        """Commands since ``mark``."""
        return [
            Answer(event["command"], event.get("ack") == 0, event.get("elapsed_us", 0))
            for event in self.daemon.events[mark:]
            if event["event"] in OUTCOMES
        ]


async def tell(
    screen: Screen, daemon: DaemonProcess, enter: Callable[[], AbstractAsyncContextManager[Player]]
) -> None:
    """The whole story; ``enter`` brings the guest onto the stage."""
    status = await daemon.status()
    screen.title("cvqd takes the device and looks where its queues can have their memory")
    screen.lines("asked", [f"cvqd run --config {daemon.config}"])
    screen.lines("memory", _memory(status["isolation"]["queues"]))
    verdict = status["isolation"]["verdict"]
    screen.check(
        "the control queue has an address space of its own", holds=verdict == "isolated", instead=verdict
    )
    screen.title("A guest connects to cvqd's vhost-user socket")
    begun = trio.current_time()
    async with enter() as player:
        seconds = trio.current_time() - begun
        screen.lines("guest", [f"{player.description}, there after {seconds:.1f} s"])
        stage = Stage(screen, daemon, player)
        stage.status = await daemon.status()
        connected = stage.status["frontend"]["connected"]
        screen.check("cvqd has a front-end", holds=connected)
        own = await _arrive(stage)
        await _change_mac(stage, own)
        await _use_all_queues(stage)
        await _visit_vlan(stage)
        await _leave(stage)


async def _arrive(stage: Stage) -> str:
    """The card comes up; its own address is returned."""
    await stage.act(
        "The guest brings its network card up",
        stage.player.bring_up(),
        "rx.promisc",
        "rx.allmulti",
        "mac.table_set",
    )
    own: str = stage.state["mac"]
    stage.screen.check("cvqd tracks that the device filters", holds=not stage.state["rx"]["promisc"])
    await stage.frames(
        (Frame(own), f"a frame to its own address {own}", True),
        (Frame(NEW_MAC), f"a frame to another address, {NEW_MAC},", False),
    )
    return own


async def _change_mac(stage: Stage, old: str) -> None:
    await stage.act("The guest changes its MAC address", stage.player.set_mac(NEW_MAC), "mac.addr_set")
    stage.tracked("mac", NEW_MAC)
    await stage.frames(
        (Frame(NEW_MAC), f"a frame to the new address {NEW_MAC}", True),
        (Frame(old), f"a frame to the old address {old}", False),
    )


async def _use_all_queues(stage: Stage) -> None:
    pairs = (len(stage.status["isolation"]["queues"]) - 1) // 2
    await stage.act("The guest uses all its queues", stage.player.set_channels(pairs), USE_PAIRS)
    stage.tracked("pairs", pairs)
    await stage.frames(
        *((Frame(NEW_MAC, queue=queue), f"a frame on queue pair {queue}", True) for queue in range(1, pairs))
    )


async def _visit_vlan(stage: Stage) -> None:
    tagged = (Frame(NEW_MAC, vlan=VLAN), f"a frame tagged for VLAN {VLAN}")
    before = stage.state["vlans"]
    await stage.act(f"The guest joins VLAN {VLAN}", stage.player.add_vlan(VLAN), "vlan.add")
    stage.tracked("vlans", sorted([*before, VLAN]))
    await stage.frames(
        (*tagged, True), (Frame(NEW_MAC, vlan=VLAN + 1), f"a frame tagged for VLAN {VLAN + 1}", False)
    )
    await stage.act(f"The guest leaves VLAN {VLAN}", stage.player.remove_vlan(VLAN), "vlan.del")
    stage.tracked("vlans", before)
    await stage.frames((*tagged, False))


async def _leave(stage: Stage) -> None:
    screen, daemon = stage.screen, stage.daemon
    screen.title("The guest shuts down, then cvqd")
    screen.lines("guest", [await stage.player.leave()])
    await daemon.event("frontend.disconnected")
    screen.check("cvqd noticed and is ready for the next guest", holds=bool(await daemon.status()))
    code = await daemon.stop()
    screen.check("cvqd ended with exit code 0", holds=code == 0, instead=code)
    loud = [event["event"] for event in daemon.events if event["level"] in {"warning", "error"}]
    screen.check("its log holds no warning", holds=not loud and not daemon.stray, instead=loud + daemon.stray)


def _memory(queues: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each run of neighbouring queues with the same group and address space."""
    runs: list[list[dict[str, Any]]] = []
    for queue in queues:
        if runs and all(runs[-1][-1][key] == queue[key] for key in ("group", "asid")):
            runs[-1].append(queue)
        else:
            runs.append([queue])
    lines = []
    for run in runs:
        first, last = run[0]["index"], run[-1]["index"]
        name = f"queue {first}" if first == last else f"queues {first}-{last}"
        control = any(queue["role"] == "control" for queue in run)
        lines.append(
            f"{name:<11} {'control' if control else 'receive, transmit':<18}"
            f" group {run[0]['group']}   ASID {run[0]['asid']}   "
            + ("cvqd's own memory" if control else "the guest's memory")
        )
    return lines


def _table(answers: Sequence[Answer]) -> list[str]:
    """A line for each command and outcome, in the order of first appearance."""
    groups: dict[tuple[str, bool], list[int]] = {}
    for answer in answers:
        groups.setdefault((answer.command, answer.ok), []).append(answer.elapsed_us)
    lines = []
    for (command, ok), times in groups.items():
        often = f"x{len(times)}" if len(times) > 1 else ""
        span = f"{times[0]}" if len(times) == 1 else f"{min(times)}-{max(times)}"
        lines.append(f"{command:<18} {often:<4} {'OK' if ok else 'ERR':<4} {span:>9} µs")
    return lines


def _summary(state: dict[str, Any]) -> str:
    pairs = state["pairs"]
    return f"mac {state['mac']}   pairs {pairs}   vlans {_shown(state['vlans'])}   digest {state['digest']}"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return str(value)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(", ".join(names).rsplit(", ", 1))
