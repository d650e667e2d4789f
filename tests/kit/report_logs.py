"""Logs as daemons write them, made by code: a clock, a run, lines; and the stories that tests need."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from cvqd.events import CATALOGUE
from cvqd.host.logging import SCHEMA, to_json
from cvqd.report.reader import Reader
from cvqd.report.story import Story
from cvqd.testing.events import check_event

if TYPE_CHECKING:
    from pathlib import Path

    from cvqd.report.findings import Findings

#: 2026-11-22T17:12:17Z
EPOCH_S = 1_795_367_537
PHASES = {"prepare": 2460, "suspend": 310, "indices": 24, "replay": 1180, "start": 330}
COMMANDS = ("mac.addr_set", "vlan.add", "rx.promisc", "mac.table_set", "mq.vq_pairs_set")


class Host:
    """Two clocks: ``wall_us`` since 1970, and ``up_us`` since the boot."""

    def __init__(self, up_s: int = 1000, wall_s: int = EPOCH_S) -> None:
        self.up_us = up_s * 1_000_000
        self.wall_us = wall_s * 1_000_000

    def passes(self, us: int) -> None:
        """Time goes by."""
        self.up_us += us
        self.wall_us += us


class Daemon:
    """One run of a daemon; ``lines`` is its log."""

    def __init__(
        self,
        host: Host | None = None,
        *,
        instance: str = "vm0",
        run_id: str = "1421c21a1423",
        device: str = "simulator",
        lines: list[str] | None = None,
    ) -> None:
        self.host = host or Host()
        self.lines: list[str] = [] if lines is None else lines
        self.instance = instance
        self.run_id = run_id
        self.device = device
        self.seq = 0
        self._command_id = 0

    def emit(self, event: str, **fields: Any) -> str:
        """One line, now."""
        check_event(event, fields)
        self.seq += 1
        seconds, us = divmod(self.host.wall_us, 1_000_000)
        line = to_json(
            {
                "schema": SCHEMA,
                "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{us // 1000:03d}Z",
                "mono_ns": self.host.up_us * 1000,
                "seq": self.seq,
                "run_id": self.run_id,
                "instance": self.instance,
                "device": self.device,
                "level": CATALOGUE[event].level,
                "event": event,
                **fields,
            }
        )
        self.lines.append(line)
        return line

    def started(self, rings: tuple[int, ...] = (0, 1, 2)) -> None:
        """The daemon is up and a guest's driver runs."""
        self.emit("service.started", version="0.1.0", socket="s", control="c")
        self.emit("state.reset", reason="new", digest="00000000")
        self.runs(rings)

    def runs(self, rings: tuple[int, ...] = (0, 1, 2), elapsed_us: int = 900) -> None:
        """The device starts."""
        self.emit("device.started", features=[], pairs=1, rings=list(rings), elapsed_us=elapsed_us)

    def command(
        self, name: str = "vlan.add", *, took_us: int = 110, ack: int = 0, debug: bool = False
    ) -> None:
        """A command and its answer."""
        self._command_id += 1
        one = {"command_id": self._command_id, "command": name}
        if debug:
            self.emit("cvq.command.received", **one, bytes=4)
            self.emit("cvq.command.forwarded", **one)
        self.host.passes(took_us)
        self.emit("cvq.command.acked", **one, ack=ack, elapsed_us=took_us)

    def move(
        self,
        name: str = "1",
        *,
        kind: str = "switchover",
        source: str = "simulator",
        target: str = "spare",
        phases: dict[str, int] | None = None,
        digests: tuple[str, str] = ("81fa90c2", "81fa90c2"),
        fails_in: str = "",
        blackout_us: int | None = None,
        ends: bool = True,
    ) -> None:
        """A move inside this daemon."""
        phases = PHASES if phases is None else phases
        self.emit("switchover.started", move=name, kind=kind, source=source, target=target, digest=digests[0])
        for phase, us in phases.items():
            self.host.passes(us)
            if phase == fails_in:
                self.emit(
                    "switchover.failed",
                    move=name,
                    phase=phase,
                    reason="EIO from the device",
                    guest_on="source",
                )
                return
            self.emit("switchover.phase", move=name, phase=phase, elapsed_us=us)
        if not ends:
            return
        dark = sum(us for phase, us in phases.items() if phase != "prepare")
        self.host.passes(15)
        self.emit(
            "switchover.finished",
            move=name,
            kind=kind,
            source=source,
            target=target,
            blackout_us=dark if blackout_us is None else blackout_us,
            commands=19,
            digest_before=digests[0],
            digest_after=digests[1],
        )

    def stopped(self) -> None:
        """The orderly end."""
        self.emit("service.stopping", signal="SIGTERM")
        self.emit("device.stopped", how="reset", reason="end")
        self.emit("service.stopped")


def rehearsed(times: int = 100, *, seed: int = 7) -> Daemon:
    """A rehearsal, there and back, with a guest that goes on giving commands."""
    roll = random.Random(seed)
    daemon = Daemon()
    daemon.started((0, 1, 2, 3, 4))
    for _ in range(20):
        daemon.host.passes(roll.randrange(500, 90_000))
        daemon.command(roll.choice(COMMANDS), took_us=roll.randrange(80, 300))
    daemon.emit("rehearsal.started", rehearsal="r1", to="spare", times=times, back=True, dry=False)
    longest = 0
    for number in range(times):
        there = number % 2 == 0
        pace = roll.lognormvariate(0, 0.18) * (1 if there else 1.25)
        phases = {phase: max(int(us * pace * roll.uniform(0.9, 1.1)), 4) for phase, us in PHASES.items()}
        source, target = ("simulator", "spare") if there else ("spare", "simulator")
        daemon.move(str(number + 1), source=source, target=target, phases=phases)
        longest = max(longest, sum(phases.values()) - phases["prepare"])
        for _ in range(roll.randrange(4, 12)):
            daemon.host.passes(roll.randrange(300, 9_000))
            daemon.command(roll.choice(COMMANDS), took_us=roll.randrange(80, 300))
    daemon.emit(
        "rehearsal.finished", rehearsal="r1", moves=times, failed=0, blackout_us=longest, verdict="passed"
    )
    daemon.stopped()
    return daemon


def migrated(
    *, skew_us: int = 0, digests: tuple[str, str] = ("81fa90c2", "81fa90c2")
) -> tuple[Daemon, Daemon]:
    """A guest that goes from one daemon to another; with ``skew_us`` between the clocks of two hosts."""
    here, there = Host(), Host(5_000_000, EPOCH_S) if skew_us else Host()
    if skew_us:
        there.wall_us += skew_us
    source = Daemon(here, run_id="aaaaaaaaaaaa", device="vdpa0")
    target = Daemon(there, run_id="bbbbbbbbbbbb", device="vdpa1")

    def passes(us: int) -> None:
        here.passes(us)
        there.passes(us)

    source.started((0, 1, 2))
    target.emit("service.started", version="0.1.0", socket="s", control="c")
    for _ in range(6):
        passes(800)
        source.command()
        there.passes(110)
    passes(500)
    source.emit("device.stopped", how="suspend", reason="the front-end stopped the rings")
    passes(400)
    source.emit("snapshot.saved", digest=digests[0], bytes=4096, how="front-end")
    passes(2_000)
    target.emit("snapshot.loaded", digest=digests[0], bytes=4096, how="front-end")
    passes(1_500)
    target.emit("state.replayed", commands=19, digest=digests[1], elapsed_us=600)
    passes(300)
    target.runs((0, 1, 2), elapsed_us=1_100)
    for _ in range(4):
        passes(700)
        target.command()
        here.passes(110)
    source.stopped()
    return source, target


def written(directory: Path, *logs: Daemon | list[str] | bytes) -> list[str]:
    """Files of these logs; their paths."""
    paths = []
    for number, log in enumerate(logs):
        path = directory / f"{number}.log"
        lines = log.lines if isinstance(log, Daemon) else log
        path.write_bytes(
            lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
        )
        paths.append(str(path))
    return paths


def found(*paths: str | Path) -> Findings:
    """What a report finds in them."""
    reader = Reader([str(path) for path in paths])
    story = Story()
    story.feed(reader.lines())
    return story.conclude(reader.files)
