"""``cvqd trace``: a guest's commands as text, as JSON and as a capture."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio

from cvqd.core.queues.chain import Chain
from cvqd.errors import GuestError
from cvqd.telemetry.journal import Journal, Pending
from cvqd.telemetry.traced import SNAP, Traced
from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.events import EventRecorder
from cvqd.testing.frontend import FrontEnd
from cvqd.text.paint import Paint
from cvqd.text.trace_text import as_json, as_line, capture_head, packets
from cvqd.wire.net_control import COMMANDS, NAMES, OK, MacAddrSet, StatsQuery, VlanAdd, VlanDel
from cvqd.wire.trace_frame import Kind, Outcome, TraceFrame
from kit.capture import read
from kit.driven_guest import MAC_A, DrivenGuest
from kit.rig import Rig, jumping_clock, settled
from kit.verb_process import running

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from kit.verb_process import VerbProcess

LUA = Path(__file__).resolve().parents[2] / "config" / "cvqd.lua"
SECOND = 1_000_000_000


def traced(**changes: Any) -> Traced:
    return Traced(
        **{
            "time_ns": 1_700_000_000 * SECOND,
            "command_id": 7,
            "command": "vlan.add",
            "outcome": "ok",
            "ack": 0,
            "elapsed_us": 113,
            "length": 4,
            "data": VlanAdd(5).encode(),
            "result": b"",
            "reason": "",
            **changes,
        }
    )


class Traces(NamedTuple):
    """What a follower of the journal has seen."""

    records: list[Traced]

    @classmethod
    def of(cls, data: bytes) -> Traces:
        return cls([Traced.parse(json.loads(line)) for line in data.splitlines()])


@jumping_clock
async def test_every_command_is_traced_with_what_became_of_it(tmp_path: Path):
    from cvqd.simulator.spec import Fault, FaultAction, SimulatorSpec  # noqa: PLC0415

    faults = (Fault("vlan.del", FaultAction.ERR), Fault("mac.addr_set", FaultAction.DELAY, 2.5))
    async with Rig.opened(tmp_path, SimulatorSpec(faults=faults)) as rig, rig.guest() as guest:
        await guest.start()
        await guest.command(VlanAdd(4).encode())
        with rig.journal.trace.follow() as follower:
            for command in (VlanAdd(5), VlanDel(5), VlanAdd(5000), StatsQuery(), MacAddrSet(MAC_A)):
                await guest.command(command.encode())
            await guest.command(b"\x01")
            await trio.sleep(3)
            await settled()
            found = Traces.of(await follower.take()).records
        await guest.command(VlanAdd(6).encode())
    assert [(each.command, each.outcome, each.ack) for each in found] == [
        ("vlan.add", "ok", 0),
        ("vlan.del", "err", 1),
        ("vlan.add", "refused", 1),
        ("stats.query", "ok", 0),
        ("mac.addr_set", "expired", 1),
        ("none", "refused", 1),
        ("mac.addr_set", "late", 0),
    ], "not those before and after"
    assert found[2].reason.startswith("vlan.id: ")
    assert found[0].data == VlanAdd(5).encode()
    assert [each.command_id for each in found] == [2, 3, 4, 5, 6, 7, 6]


def test_nothing_is_made_while_nobody_traces(monkeypatch: pytest.MonkeyPatch):
    journal = Journal(EventRecorder())
    made: list[bytes] = []
    monkeypatch.setattr(Traced, "line", lambda _: made.append(b"") or b"")

    def answer() -> None:
        pending = Pending(1, Chain(0), VlanAdd(5).encode(), 1.0)
        pending.command, pending.ack = VlanAdd(5), OK
        journal.answered(pending)
        journal.tell()

    answer()
    assert made == []
    with journal.trace.follow():
        answer()
    assert made == [b""]
    answer()
    assert made == [b""]


def test_a_long_command_is_cut_and_says_how_long_it_was():
    journal = Journal(EventRecorder())
    with journal.trace.follow() as follower:
        pending = Pending(1, Chain(0), bytes(SNAP + 100), 1.0)
        pending.refuse(GuestError("command.too_long", "x"))
        journal.answered(pending)
        journal.tell()
        assert follower._bytes < 3 * SNAP
        (line,) = follower._lines
    found = Traced.parse(json.loads(line))
    assert (len(found.data), found.length) == (SNAP, SNAP + 100)
    command, _ = read(capture_head("", "") + b"".join(packets(found))).packets
    assert command.length - len(command.data) == 100


def test_a_record_comes_back_from_its_line():
    for record in (traced(), traced(ack=None, reason="site.vlan: no"), traced(result=b"\1\2")):
        assert Traced.parse(json.loads(record.line())) == record


def test_a_line_says_it_all_and_cuts_long_lists():
    assert as_line(traced()) == "22:13:20.000113       7  vlan.add            ok            113 µs  vlan=5"
    refused = traced(outcome="refused", reason="site.vlan: VLAN 5 is not the guest's")
    assert as_line(refused).endswith("vlan=5  site.vlan: VLAN 5 is not the guest's")
    many = bytes.fromhex("0100 00000000 0a000000" + "01005e000001" * 10)
    shown = as_line(traced(command="mac.table_set", data=many))
    assert "unicast=[] multicast=[01:00:5e:00:00:01 " in shown
    assert "… 10 in all]" in shown
    asked = traced(command="stats.query", data=StatsQuery().encode(), result=(1 << 32).to_bytes(8, "little"))
    assert as_line(asked).endswith("-> types=[cvq]")


def test_a_line_is_coloured_only_when_asked_and_holds_no_escape():
    assert "\x1b" not in as_line(traced(outcome="expired", reason="\x1b[2J"))
    assert "\x1b[1;31mexpired" in as_line(traced(outcome="expired"), Paint(on=True))


def test_json_has_the_fields():
    found = as_json(traced(result=b"\0", reason="r"))
    assert found["fields"] == {"vlan": 5}
    assert (found["data"], found["result"], found["reason"]) == ("02000500", "00", "r")


def test_a_capture_has_two_packets_for_a_command_and_one_for_a_late_answer():
    late = traced(outcome="late", elapsed_us=2_000_000)
    data = capture_head("vm0", "/dev/vhost-vdpa-0") + b"".join(packets(traced())) + b"".join(packets(late))
    found = read(data)
    assert (found.link_type, found.interface[2], found.interface[3]) == (147, b"vm0", b"/dev/vhost-vdpa-0")
    assert [(packet.direction, packet.comment) for packet in found.packets] == [
        (1, "vlan.add vlan=5"),
        (2, "vlan.add ok after 113 µs"),
        (2, "vlan.add late after 2000000 µs"),
    ]
    asked, answered, _ = found.packets
    assert answered.time_ns - asked.time_ns == 113_000
    assert TraceFrame.parse(asked.data) == (Kind.COMMAND, Outcome.NONE, 7, VlanAdd(5).encode())
    assert TraceFrame.parse(answered.data) == (Kind.ANSWER, Outcome.OK, 7, b"\0")


def test_a_frame_is_read_or_refused():
    for data in (b"", bytes(8), b"\x02" + bytes(7), b"\x01\x09" + bytes(6)):
        with pytest.raises(ValueError, match=r"frame|version|is not a valid"):
            TraceFrame.parse(data)


def test_wiresharks_script_knows_every_command():
    text = LUA.read_text()
    known = {int(number, 16): name for number, name in re.findall(r'\[(0x\w{4})\] = "([a-z_.]+)"', text)}
    assert known == {int.from_bytes(command.encode()[:2], "big"): command.name for command in COMMANDS}
    assert set(known.values()) == set(NAMES)
    for name, kinds in (("kinds", Kind), ("outcomes", Outcome)):
        (table,) = re.findall(rf"local {name} = {{(.*?)}}", text)
        words = {int(number): word for number, word in re.findall(r'\[(\d)\] = "(\w+)"', table)}
        assert words == {kind.value: kind.name.lower() for kind in kinds}


def tracing(daemon: DaemonProcess, *arguments: str) -> AbstractAsyncContextManager[VerbProcess]:
    """``cvqd trace`` in a process, once it follows."""
    return running(
        "trace",
        "--config",
        str(daemon.config),
        *arguments,
        greeting="cvqd: tracing vm0; times are UTC",
    )


async def test_the_verb_traces_a_daemon_in_every_form(tmp_path: Path):
    capture = tmp_path / "trace.pcapng"
    with trio.fail_after(30):
        async with (
            DaemonProcess.start(tmp_path, simulator_config(tmp_path)) as daemon,
            await FrontEnd.connect(daemon.socket) as front_end,
            tracing(daemon, "--count", "2", "--pcap", str(capture)) as text,
            tracing(daemon, "--json") as lines,
            tracing(daemon, "--count", "2", "--pcap", "-") as piped,
        ):
            guest = DrivenGuest(front_end)
            await guest.start()
            assert await guest.set_mac(MAC_A) == 0
            assert await guest.set_mac(b"\x01" + MAC_A[1:]) == 1
            shown = (await text.out()).decode().splitlines()
            assert await text.wait() == 0
            assert (await text.err()) == b"cvqd: 2 traced, 0 lost\n"
            assert "mac.addr_set        ok " in shown[0]
            assert "mac=52:54:00:aa:00:01" in shown[0]
            assert shown[1].endswith("mac=01:54:00:aa:00:01  mac.not_unicast: 01:54:00:aa:00:01")
            assert read(capture.read_bytes()).packets == read(await piped.out()).packets
            guest.close()
            assert await daemon.stop() == 0
            objects = [json.loads(line) for line in (await lines.out()).splitlines()]
            assert [entry["fields"]["mac"][:2] for entry in objects] == ["52", "01"]
            assert await lines.wait() == 69
            assert (await lines.err()).endswith(b"cvqd: the instance has ended\n")
    comments = [packet.comment for packet in read(capture.read_bytes()).packets]
    assert comments[0] == "mac.addr_set mac=52:54:00:aa:00:01"
    assert len(comments) == 4


async def test_a_capture_on_a_full_disk_ends_the_verb_by_name(tmp_path: Path):
    async with DaemonProcess.start(tmp_path, simulator_config(tmp_path)) as daemon:
        command = [
            sys.executable,
            "-m",
            "cvqd",
            "trace",
            "--config",
            str(daemon.config),
            "--pcap",
            "/dev/full",
        ]
        with trio.fail_after(20):
            done = await trio.run_process(command, capture_stderr=True, check=False)
        assert done.stderr.decode() == "cvqd: /dev/full: No space left on device\n"
        assert done.returncode == 73


def test_wireshark_reads_a_capture(tmp_path: Path):
    if shutil.which("tshark") is None:
        if os.environ.get("CVQD_REQUIRE") == "all":
            pytest.fail("CVQD_REQUIRE=all, but tshark is not installed (Debian package tshark)")
        pytest.skip("tshark is not installed (Debian package tshark)")
    file = tmp_path / "trace.pcapng"
    file.write_bytes(capture_head("vm0", "simulator") + b"".join(packets(traced())))
    fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment"]
    done = subprocess.run(
        ["tshark", "-r", str(file), *fields], check=True, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.splitlines() == ["vm0\tvlan.add vlan=5", "vm0\tvlan.add ok after 113 µs"]
