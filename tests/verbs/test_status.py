from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvqd.core import features
from cvqd.core.coalescing import CoalescingTable
from cvqd.core.isolation import judge
from cvqd.core.lifecycle import DeviceFacts
from cvqd.core.queues.guest_queue import Chain
from cvqd.core.tracked import TrackedState
from cvqd.errors import GuestError
from cvqd.telemetry import status
from cvqd.telemetry.journal import Journal, Pending
from cvqd.testing.events import EventRecorder
from cvqd.text.paint import Paint
from cvqd.text.status_overview import overview
from cvqd.text.status_text import render
from cvqd.wire.net_config import NetConfig
from cvqd.wire.net_control import ERR, OK, Coalescing, MacAddrSet, RssConfig
from cvqd.wire.vhost_vdpa import Backend, IovaRange
from cvqd.wire.virtio import Feature, mask_of

MAC = bytes.fromhex("525400123456")
DEVICE = mask_of(
    Feature.CTRL_VQ, Feature.MQ, Feature.CTRL_MAC_ADDR, Feature.VERSION_1, Feature.ACCESS_PLATFORM
)
FACTS = DeviceFacts(
    features=DEVICE,
    backend_features=Backend.IOTLB_ASID.mask | Backend.SUSPEND.mask,
    vring_num=256,
    smallest_ring=256,
    vqs=9,
    group_count=2,
    address_spaces=2,
    iova=IovaRange(0, 2**64 - 1),
    config=NetConfig(MAC).encode(),
    max_pairs=4,
)
OFFER = features.offer(DEVICE, 4, 9)
ISOLATED = judge(
    backend_features=FACTS.backend_features, address_spaces=2, groups=(0,) * 8 + (1,), cvq_index=8
)


def pending(number: int, ack: int, *, refusal: GuestError | None = None, expired: bool = False) -> Pending:
    made = Pending(number, Chain(0), MacAddrSet(MAC).encode(), 0.0)
    made.command = MacAddrSet(MAC)
    made.ack = ack
    made.refusal = refusal
    made.expired = expired
    made.received_ns, made.answered_ns = 1_000_000, 1_123_000
    return made


def journal() -> Journal:
    made = Journal(EventRecorder())
    for command in (
        pending(1, OK),
        pending(2, ERR),
        pending(3, ERR, refusal=GuestError("command.feature", "not negotiated")),
        pending(4, ERR, expired=True),
    ):
        made.answered(command)
        answered = command.answered_ns
        command.received_ns = answered - 123_000
    made.tell()
    return made


def complete() -> status.Status:
    kept = journal()
    return {
        "schema": status.SCHEMA,
        "instance": "vm0",
        "phase": "running",
        "device": status.device_status("vhost-vdpa", "/dev/vhost-vdpa-0", FACTS, OFFER),
        "frontend": status.frontend_status(mask_of(Feature.CTRL_VQ, Feature.MQ), [3, 1]),
        "isolation": status.isolation_status(ISOLATED),
        "state": status.state_status(TrackedState(MAC, vlans=0b1110 | 1 << 4094, pairs=4), uncertain=False),
        "state_log": {"path": "/var/lib/cvqd/vm0/state.log", "reason": ""},
        "counters": status.counters_status(kept, quarantined=1),
        "commands": status.commands_status(kept.recent),
    }


def test_the_status_has_the_documented_shape():
    found = json.loads(json.dumps(complete()))
    assert set(found) == {
        "schema",
        "instance",
        "phase",
        "device",
        "frontend",
        "isolation",
        "state",
        "state_log",
        "counters",
        "commands",
    }
    assert found["device"]["features"] == ["CTRL_VQ", "MQ", "CTRL_MAC_ADDR", "VERSION_1", "ACCESS_PLATFORM"]
    assert found["device"]["backend"] == ["IOTLB_ASID", "SUSPEND"]
    assert {"name", "reason"} == set(found["device"]["masked"][0])
    assert found["frontend"] == {"connected": True, "features": ["CTRL_VQ", "MQ"], "bridged": [1, 3]}
    assert found["isolation"]["verdict"] == "isolated"
    assert found["isolation"]["queues"][8]["asid"] == 1
    assert set(found["isolation"]["queues"][0]) == {"index", "role", "group", "asid", "reason"}
    assert found["state"]["mac"] == "52:54:00:12:34:56"
    assert found["state"]["vlans"] == [1, 2, 3, 4094]
    assert found["state"]["uncertain"] is False
    assert found["counters"]["answers"]["mac.addr_set"] == {"ok": 1, "err": 1, "refused": 1, "expired": 1}


def test_the_last_commands_tell_what_became_of_each():
    outcomes = [
        (command["command_id"], command["outcome"], command["elapsed_us"], command.get("reason"))
        for command in complete()["commands"]
    ]
    assert outcomes == [
        (1, "ok", 123, None),
        (2, "err", 123, None),
        (3, "refused", 123, "command.feature: not negotiated"),
        (4, "expired", 123, None),
    ]


def test_without_a_front_end_no_features_are_shown():
    assert status.frontend_status(None) == {"connected": False, "features": [], "bridged": []}


def test_a_terminal_gets_one_aligned_screen():
    text = render(complete(), 80)
    lines = text.splitlines()
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 80
    assert lines[0] == "vm0           running"
    for expected in (
        "device        vhost-vdpa /dev/vhost-vdpa-0",
        "  has         pairs 4, queues 9, queue size 256, groups 2, address spaces 2",
        "front-end     connected",
        "  bridged     1 3",
        "isolation     isolated",
        "  0-7         data             0     0  guest memory",
        "  8           control          1     1  queue 8 has group 1 to itself and 2",
        "                                        address spaces exist",
        "  mac         52:54:00:12:34:56",
        "  vlans       1-3 4094",
        "  kept in     /var/lib/cvqd/vm0/state.log",
    ):
        assert expected in lines


def test_queues_of_different_places_have_lines_of_their_own():
    mixed = judge(backend_features=0, address_spaces=1, groups=(0, 0, 1), cvq_index=2)
    text = render({"isolation": status.isolation_status(mixed)}, 200)
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["0-1", "2"]


def test_a_state_that_is_not_certain_says_so():
    text = render({"state": status.state_status(TrackedState(MAC), uncertain=True)})
    assert "UNCERTAIN" in text.splitlines()[0]


def test_a_state_that_no_restart_will_know_says_why():
    text = render({"state_log": {"path": None, "reason": "/var/lib/cvqd/vm0: Permission denied"}})
    assert text == "  kept        nowhere: /var/lib/cvqd/vm0: Permission denied"


def test_steering_offloads_and_coalescing_are_shown_where_they_are_not_as_after_a_reset():
    plain = render({"state": status.state_status(TrackedState(MAC), uncertain=False)})
    assert not any(word in plain for word in ("steering", "coalescing", "offloads", "widened"))
    state = TrackedState(
        MAC,
        hashing=RssConfig(0b10, 3, 0, (0, 1, 1, 1), 2, b"secret"),
        offloads=Feature.GUEST_CSUM.mask,
        coalescing=CoalescingTable(rx=Coalescing(8, 50), queues=((1, Coalescing(2, 20)),)),
        widened=True,
    )
    shown = status.state_status(state, uncertain=False)
    assert "secret" not in json.dumps(shown)
    text = render({"state": shown}, 200)
    assert "steering    rss 0: 1/4, 1: 3/4" in text
    assert "hashed      tcpv4" in text
    assert "offloads    GUEST_CSUM" in text
    assert "coalescing  all rx: 8 packets or 50 µs, queue 1: 2 packets or 20 µs" in text
    assert "widened     promiscuous" in text


def test_long_lists_are_cut_to_keep_the_screen():
    table = tuple(number.to_bytes(6, "big") for number in range(0, 400, 2))
    state = TrackedState(MAC, unicast=table, vlans=int("01" * 2048, 2))
    text = render({"state": status.state_status(state, uncertain=False)}, 80)
    assert len(text.splitlines()) < 15
    assert "… 200 in all" in text


@pytest.mark.parametrize(
    "key", ["device", "frontend", "isolation", "state", "state_log", "counters", "commands"]
)
def test_a_section_that_another_version_lacks_is_left_out(key: str):
    cut: dict[str, Any] = {**complete()}
    del cut[key]
    assert render(cut)


def test_a_probe_is_shown_by_the_same_lines():
    report = status.probe_report(complete()["device"], ISOLATED)
    assert render(report) in render({**complete(), "frontend": {}})


def test_a_guest_that_does_without_something_is_shown_by_that():
    shown = {**complete(), "frontend": status.frontend_status(mask_of(Feature.CTRL_VQ, Feature.RING_PACKED))}
    text = render(shown)
    assert "  declined    MQ CTRL_MAC_ADDR VERSION_1\n  beside      RING_PACKED\n" in text
    shown["frontend"] = status.frontend_status(DEVICE)
    assert "  declined    -\n" in render(shown)
    shown["frontend"] = status.frontend_status(0)
    assert "front-end     connected\n" in render(shown)
    assert "declined" not in render(shown)


def test_outcomes_have_a_column_where_there_are_some():
    kept = journal()
    text = render({"counters": status.counters_status(kept, quarantined=1)})
    head, row, reasons, counted = text.splitlines()
    assert head.split() == ["commands", "ok", "err", "refused", "expired"]
    assert row.split() == ["mac.addr_set", "1", "1", "1", "1"]
    assert reasons == "  reasons     command.feature 1"
    assert counted == "  counted     quarantined 1"
    quiet = status.counters_status(Journal(EventRecorder()), quarantined=0)
    assert render({"counters": quiet}) == "commands      none"


def test_colour_changes_no_letter_and_no_width():
    plain, coloured = render(complete(), 80), render(complete(), 80, Paint(on=True))
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
    assert "\x1b[1mdevice\x1b[0m        vhost-vdpa" in coloured
    assert "\x1b[1;31mexpired\x1b[0m" in coloured
    assert "\x1b" not in plain


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Paint.for_stream(Terminal())("1", "x") == "\x1b[1mx\x1b[0m"
    assert Paint.for_stream(io.StringIO())("1", "x") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Paint.for_stream(Terminal())("1", "x") == "x"


def test_what_comes_from_elsewhere_cannot_reach_the_terminal():
    shown = render({"device": {"kind": "vhost-vdpa", "path": "/dev/\x1b]0;x\x07"}})
    assert shown == "device        vhost-vdpa /dev/?]0;x?\n  has"


def test_several_instances_have_a_line_each():
    other = {**complete(), "instance": "a-longer-name", "phase": "waiting", "counters": {}, "state": {}}
    table = overview([complete(), other, {}], 200)
    head, first, second, _ = table.splitlines()
    assert first.split() == [
        "vm0",
        "running",
        "isolated",
        "52:54:00:12:34:56",
        "4",
        "4",
        "3",
        "1",
        TrackedState(MAC, vlans=0b1110 | 1 << 4094, pairs=4).digest(),
        "/dev/vhost-vdpa-0",
    ]
    assert first.index("running") == second.index("waiting") == head.index("phase")
    assert first[head.index("expired") + len("expired") - 1] == "1", "numbers end where their name does"
    assert max(map(len, overview([complete()], 60).splitlines())) <= 60


@given(st.sets(st.integers(0, 4095)))
def test_ranges_name_exactly_the_vlans(vlans: set[int]):
    from cvqd.text.status_text import _ranges  # noqa: PLC0415

    found: set[int] = set()
    for word in _ranges(sorted(vlans)):
        first, _, last = word.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    assert found == vlans
