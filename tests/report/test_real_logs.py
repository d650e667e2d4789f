"""Moves of real instances, read back from the log that they wrote."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from cvqd.host.log_sink import Sink
from cvqd.host.logging import StructuredLog
from cvqd.simulator.spec import SimulatorSpec
from cvqd.testing.events import EventRecorder
from cvqd.wire.net_control import MacAddrSet, VlanAdd, VqPairsSet
from cvqd.wire.virtio import Feature
from kit.report_logs import found
from kit.rig import MAC_A, MAC_B, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPEC = SimulatorSpec(max_queue_pairs=2)


class WrittenLog(EventRecorder):
    """Remembers and writes."""

    def __init__(self, log: StructuredLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, name: str, /, *, mono_ns: int | None = None, **fields: object) -> None:
        super().emit(name, mono_ns=mono_ns, **fields)
        self._log.emit(name, mono_ns=mono_ns, **fields)


@contextmanager
def written_log(path: Path) -> Iterator[WrittenLog]:
    with path.open("wb") as file:
        log = StructuredLog(
            Sink(file.fileno()), instance="vm0", device=path.stem, level="debug", format="json"
        )
        yield WrittenLog(log)
        log.close()


async def commands(guest: Any) -> None:
    for command in (MacAddrSet(MAC_A), VqPairsSet(2), *map(VlanAdd, range(1, 40))):
        assert await guest.command(command.encode()) == 0


async def test_a_rehearsal(tmp_path):
    path = tmp_path / "device.log"
    with written_log(path) as log:
        targets = {"spare": replace(SPEC, mac=MAC_B)}
        async with Rig.opened(tmp_path, SPEC, log=log, targets=targets) as rig, rig.guest() as guest:
            await guest.start()
            await commands(guest)
            answer = await rig.rehearsals.rehearse({"to": "spare", "back": True, "times": 3})
            await rig.rehearsals.rehearse({"to": "spare", "dry": True})
            await commands(guest)
            await guest.stop()
    findings = found(path)
    assert findings.anomalies.counts == {}
    assert [move.kind for move in findings.moves] == ["switchover"] * 6 + ["dry"]
    assert [rehearsal.outcome for rehearsal in findings.rehearsals] == [
        "6 moves, 0 failed: passed",
        "1 move, 0 failed: passed",
    ]
    for told, move in zip(answer["moves"], findings.moves, strict=False):
        assert (told["move"], told["blackout_us"]) == (move.name, move.blackout_us)
        assert (told["source"], told["target"]) == (move.source, move.target)
        assert [{"phase": phase.name, "elapsed_us": phase.elapsed_us} for phase in move.phases] == told[
            "phases"
        ]
        assert (told["digest_before"], told["digest_after"]) == (move.digest_before, move.digest_after)
        assert move.replayed == told["commands"] > 40
        assert move.rings_before == move.rings_after == {0, 1, 2, 3, 4}
    first, last = findings.moves[0], findings.moves[-1]
    assert len(first.commands()[0]) == 32
    assert len(last.commands()[2]) == 41


async def test_a_move_that_fails(tmp_path):
    path = tmp_path / "device.log"
    with written_log(path) as log:
        targets = {"spare": replace(SPEC, max_queue_pairs=1)}
        async with Rig.opened(tmp_path, SPEC, log=log, targets=targets) as rig, rig.guest() as guest:
            await guest.start()
            await rig.rehearsals.rehearse({"to": "spare"})
            await guest.stop()
    findings = found(path)
    assert findings.anomalies.counts == {"move.failed": 1}
    (move,) = findings.moves
    assert (move.verdict, move.failed_phase, move.guest_on) == ("failed", "prepare", "source")


async def test_a_migration(tmp_path):
    paths = [tmp_path / "here.log", tmp_path / "there.log"]
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    with written_log(paths[0]) as here, written_log(paths[1]) as there:
        async with (
            Rig.opened(tmp_path / "here", SPEC, log=here) as source,
            Rig.opened(tmp_path / "there", SPEC, log=there) as target,
            source.guest("crosvm") as guest,
        ):
            await guest.start()
            await commands(guest)
            await guest.stop()
            bases = [await guest.front_end.get_vring_base(ring.index) for ring in guest.setup.rings]
            data = await guest.front_end.save_state()
            before, guest.front_end = guest.front_end, await target.connect()
            async with guest.front_end as front_end:
                await front_end.play(guest.order.connect(guest.setup))
                await front_end.set_features(guest.features | Feature.PROTOCOL_FEATURES.mask)
                await front_end.load_state(data)
                rings = tuple(replace(ring, base=bases[ring.index]) for ring in guest.setup.rings)
                await front_end.play(guest.order.start(guest.setup._replace(rings=rings)))
                await front_end.get_features()
                with trio.fail_after(5):
                    await commands(guest)
            guest.front_end = before
    for order in (paths, paths[::-1]):
        findings = found(*order)
        assert findings.anomalies.counts == {}
        (move,) = findings.moves
        assert (move.kind, move.verdict) == ("migration", "well")
        assert (move.source, move.target, move.clock) == ("vm0 on here", "vm0 on there", "")
        assert move.digest_before == move.digest_after != ""
        assert move.rings_before == move.rings_after == {0, 1, 2, 3, 4}
        assert [phase.name for phase in move.phases][:3] == ["save", "carry", "set up"]
        assert move.phases[-1].name == "start"
        assert 0 < (move.blackout_us or 0) < 20_000_000
        assert (len(move.commands()[0]), len(move.commands()[2])) == (32, 32)
