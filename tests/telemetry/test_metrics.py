"""Metrics: judged by the parsers of prometheus-client, driven by a guest."""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING

import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from cvqd import __version__
from cvqd.cli import main
from cvqd.instance.readings import read
from cvqd.simulator.spec import Fault, FaultAction, SimulatorSpec
from cvqd.telemetry.histogram import BOUNDS, Histogram
from cvqd.telemetry.metrics import CATALOGUE, NAME, render
from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.text import metrics_text
from cvqd.wire.net_control import NAMES, MacAddrSet, VlanAdd
from kit.rig import MAC_A, Rig, jumping_clock, settled

if TYPE_CHECKING:
    from pathlib import Path

STARTED = 1_700_000_000.25
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def text(rig: Rig) -> str:
    return render("vm0", read(rig.owner, rig.backend, rig.journal, rig.log, started=STARTED))


def samples(shown: str, parse=parse_openmetrics) -> Samples:
    found: Samples = {}
    for family in parse(shown):
        for sample in family.samples:
            labels = tuple(sorted(item for item in sample.labels.items() if item[0] != NAME))
            assert (sample.name, labels) not in found
            found[sample.name, labels] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


@jumping_clock
async def test_what_a_guest_does_is_counted_by_command_and_outcome(tmp_path: Path):
    spec = SimulatorSpec(
        max_queue_pairs=2,
        faults=(Fault("vlan.del", FaultAction.ERR), Fault("mac.addr_set", FaultAction.DELAY, 2.5)),
    )
    async with Rig.opened(tmp_path, spec) as rig:
        quiet = samples(text(rig))
        assert value(quiet, "cvqd_frontend_connected") == value(quiet, "cvqd_device_running") == 0
        async with rig.guest() as guest:
            await guest.start()
            assert await guest.command(VlanAdd(5).encode()) == 0
            assert await guest.command(b"\x02\x01\x05\x00") == 1, "the device says no"
            assert await guest.command(b"\x02\x00\xff\xff") == 1, "no such VLAN"
            assert await guest.command(b"\x63\x01") == 1, "no such command"
            assert await guest.command(MacAddrSet(MAC_A).encode()) == 1, "expires"
            held = samples(text(rig))
            assert value(held, "cvqd_quarantined_buffers") == value(held, "cvqd_state_uncertain") == 1
            await trio.sleep(2)
            found = samples(text(rig))
            assert value(found, "cvqd_mapped_bytes") == guest.memory.size
        assert value(found, "cvqd_up") == value(found, "cvqd_build_info", version=__version__) == 1
        assert value(found, "cvqd_start_time_seconds") == STARTED
        assert value(found, "cvqd_frontend_connected") == value(found, "cvqd_device_running") == 1
        assert value(found, "cvqd_isolation", verdict="isolated") == 1
        assert value(found, "cvqd_isolation", verdict="shared") == 0
        for command, outcome in (
            ("vlan.add", "ok"),
            ("vlan.del", "err"),
            ("vlan.add", "refused"),
            ("unknown", "refused"),
            ("mac.addr_set", "expired"),
        ):
            assert value(found, "cvqd_commands_total", command=command, outcome=outcome) == 1
        assert value(found, "cvqd_refusals_total", reason="vlan.id") == 1
        assert value(found, "cvqd_expired_commands_total") == value(found, "cvqd_late_answers_total") == 1
        assert value(found, "cvqd_quarantined_buffers") == value(found, "cvqd_state_uncertain") == 0
        answered = sum(count for (name, _), count in found.items() if name == "cvqd_commands_total")
        assert value(found, "cvqd_command_duration_seconds_count") == answered
        assert value(found, "cvqd_command_duration_seconds_bucket", le="+Inf") == answered
        assert value(found, "cvqd_state_changes_total") == len(rig.log.of("state.changed"))
        assert value(found, "cvqd_events_total", event="cvq.command.expired", level="error") == 1


async def test_the_blackout_of_a_move_is_measured_and_one_that_was_refused_had_none(tmp_path: Path):
    spares = {"spare": SimulatorSpec(max_queue_pairs=2), "small": SimulatorSpec(max_queue_pairs=1)}
    async with Rig.opened(tmp_path, targets=spares) as rig, rig.guest() as guest:
        await guest.start()
        assert (await rig.rehearsals.rehearse({"to": "small"}))["verdict"] == "failed"
        assert value(samples(text(rig)), "cvqd_switchover_blackout_seconds_count") == 0
        answer = await rig.rehearsals.rehearse({"to": "spare", "back": True})
        found = samples(text(rig))
    assert value(found, "cvqd_switchover_blackout_seconds_count") == 2
    dark = sum(move["blackout_us"] for move in answer["moves"])
    assert value(found, "cvqd_switchover_blackout_seconds_sum") == pytest.approx(dark / 1e6)


async def test_a_guest_cannot_make_metrics_grow(tmp_path: Path):
    async with Rig.opened(tmp_path) as rig, rig.guest() as guest:
        await guest.start()
        for header in range(0, 65536, 97):
            await guest.command(header.to_bytes(2, "little") + b"\0")
        await settled()
        found = samples(text(rig))
        commands = [labels for name, labels in found if name == "cvqd_commands_total"]
        assert {dict(labels)["command"] for labels in commands} <= {*NAMES, "unknown"}
        assert len(commands) <= 5 * (len(NAMES) + 1)
        reasons = {dict(labels)["reason"] for name, labels in found if name == "cvqd_refusals_total"}
        assert reasons <= {"command.unknown", "command.length", "command.not_negotiated"}


async def test_every_metric_of_the_catalogue_is_shown_and_no_other(tmp_path: Path):
    async with Rig.opened(tmp_path) as rig:
        families = {family.name: family for family in parse_openmetrics(text(rig))}
    assert list(families) == list(CATALOGUE)
    for name, metric in CATALOGUE.items():
        family = families[name]
        assert (family.type, family.unit, family.documentation) == (metric.kind, metric.unit, metric.meaning)
        assert all(NAME in sample.labels for sample in family.samples)


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=list(CATALOGUE))
def test_an_entry_of_the_catalogue_keeps_prometheus_conventions(metric):
    assert re.fullmatch(r"cvqd(_[a-z]+)+", metric.name)
    assert metric.kind in ("gauge", "counter", "info", "histogram")
    assert not metric.name.endswith(("_total", "_info", "_bucket", "_count", "_sum"))
    assert not metric.unit or metric.name.endswith(f"_{metric.unit}")
    assert metric.meaning[0].islower() or metric.meaning[0].isdigit()
    assert not {"instance", "job", "le", NAME} & set(metric.labels), "words of Prometheus and ours"


def test_a_label_value_of_any_kind_comes_back():
    shown = render('v"m\\0\n', {"cvqd_up": 1})
    (family,) = parse_openmetrics(shown)
    assert family.samples[0].labels == {NAME: 'v"m\\0\n'}


def test_a_histogram_puts_each_duration_into_the_first_bucket_that_holds_it():
    histogram = Histogram()
    for duration in (0, 50, 51, 10**9):
        histogram.observe(duration)
    buckets = dict(histogram.cumulative())
    assert buckets[50e-6] == 2
    assert buckets[100e-6] == 3
    assert buckets[BOUNDS[-1] / 1e6] == 3
    assert buckets[inf] == histogram.count == 4
    assert histogram.sum == 10**9 + 101
    assert list(BOUNDS) == sorted(set(BOUNDS))


async def test_texts_of_several_instances_become_one_in_either_format(tmp_path: Path):
    async with Rig.opened(tmp_path) as rig, rig.guest() as guest:
        await guest.start()
        await guest.set_mac()
        readings = read(rig.owner, rig.backend, rig.journal, rig.log, started=STARTED)
        texts = [render("vm0", readings), render("vm1", {"cvqd_up": 0}), render("vm2", readings)]
    found = metrics_text.families(texts)
    for shown, parse in (
        (metrics_text.openmetrics(found), parse_openmetrics),
        (metrics_text.prometheus(found), parse_prometheus),
    ):
        families = list(parse(shown))
        names = [family.name for family in families]
        assert len(set(names)) == len(names)
        up = next(family for family in families if family.name == "cvqd_up")
        assert [(sample.labels[NAME], sample.value) for sample in up.samples] == [
            ("vm0", 1),
            ("vm1", 0),
            ("vm2", 1),
        ]
        commands = next(family for family in families if family.name == "cvqd_commands")
        assert commands.type == "counter"
        assert commands.samples[0].labels == {NAME: "vm0", "command": "mac.addr_set", "outcome": "ok"}
        assert {family.type for family in families} - {"info"} == {"gauge", "counter", "histogram"}
    assert "info\n" not in metrics_text.prometheus(found), "node_exporter knows no such type"
    assert metrics_text.openmetrics(metrics_text.families([texts[0]])) == texts[0]


async def test_the_verb_shows_a_daemons_metrics_and_writes_the_textfile(tmp_path: Path, capsys):
    async with DaemonProcess.start(tmp_path, simulator_config(tmp_path)) as daemon:

        def cvqd(*arguments: str) -> int:
            return main(["metrics", "--config", str(daemon.config), *arguments])

        assert await trio.to_thread.run_sync(cvqd) == 0
        found = samples(capsys.readouterr().out)
        assert value(found, "cvqd_events_total", event="service.started", level="info") == 1
        directory = tmp_path / "textfiles"
        directory.mkdir()
        assert await trio.to_thread.run_sync(cvqd, "--textfile", str(directory)) == 0
        (written,) = directory.iterdir()
        assert (written.name, written.stat().st_mode & 0o777) == ("cvqd.prom", 0o644)
        assert value(samples(written.read_text(), parse_prometheus), "cvqd_up") == 1
        assert await daemon.stop() == 0
        assert await trio.to_thread.run_sync(cvqd, "--textfile", str(directory)) == 69
        assert samples(written.read_text(), parse_prometheus) == {("cvqd_up", ()): 0.0}
        assert await trio.to_thread.run_sync(cvqd, "--textfile", str(tmp_path / "none")) == 73
