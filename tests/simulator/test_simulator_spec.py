"""What a simulator can be asked to be."""

from __future__ import annotations

import pytest

from cvqd.simulator.faults import CallFaultPlan, FaultPlan
from cvqd.simulator.spec import (
    SUPPORTED_FEATURES,
    CallFault,
    Fault,
    FaultAction,
    Groups,
    PeerPath,
    SimulatorSpec,
    default_features,
)
from cvqd.wire.virtio import Feature


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("mac", {"mac": b"\x52\x54"}),
        ("mac", {"mac": bytes(6)}),
        ("mac", {"mac": b"\x01" + bytes(5)}),
        ("mtu", {"mtu": 67}),
        ("mtu", {"mtu": 65536}),
        ("max_queue_pairs", {"max_queue_pairs": 0}),
        ("max_queue_pairs", {"max_queue_pairs": 128}),
        ("queue_size", {"queue_size": 1}),
        ("queue_size", {"queue_size": 384}),
        ("queue_size", {"queue_size": 65536}),
        ("address_spaces", {"address_spaces": 0}),
        ("features", {"features": 0}),
        ("features", {"features": SUPPORTED_FEATURES | Feature.HASH_TUNNEL.mask, "max_queue_pairs": 2}),
        ("features", {"features": SUPPORTED_FEATURES}),
        ("features", {"features": default_features(1) & ~Feature.CTRL_VQ.mask}),
        ("backend_features", {"backend_features": 1}),
    ],
)
def test_what_no_device_could_be_is_refused_by_name(field, values):
    with pytest.raises(ValueError, match=f"^{field}: "):
        SimulatorSpec(**values)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (Groups.CVQ, [0, 0, 0, 0, 1]),
        (Groups.PER_QUEUE, [0, 1, 2, 3, 4]),
        (Groups.SINGLE, [0, 0, 0, 0, 0]),
    ],
)
def test_groups(groups, expected):
    spec = SimulatorSpec(max_queue_pairs=2, groups=groups)
    assert [spec.group_of(queue) for queue in range(spec.queue_count)] == expected
    assert spec.group_count == max(expected) + 1


def test_without_ctrl_vq_there_is_no_control_ring():
    features = Feature.VERSION_1.mask | Feature.ACCESS_PLATFORM.mask | Feature.MAC.mask
    assert SimulatorSpec(features=features).queue_count == 2


@pytest.mark.parametrize(("bind", "connect"), [("", "/b"), ("/a", ""), ("/a", "/a"), ("/" + "a" * 107, "/b")])
def test_a_peer_has_two_paths_that_fit_a_socket_address(bind, connect):
    with pytest.raises(ValueError, match=r"^(bind|connect): "):
        PeerPath(bind, connect)


@pytest.mark.parametrize(
    "values", [{"command": ""}, {"delay": -1.0}, {"delay": float("nan")}, {"count": 0}, {"every": 0}]
)
def test_a_fault_that_could_never_happen_is_refused(values):
    with pytest.raises(ValueError, match=f"^{next(iter(values))}: "):
        Fault(**{"command": "mac.addr_set", "action": FaultAction.ERR} | values)


def test_faults_are_spent_in_order():
    first = Fault("mac.addr_set", FaultAction.ERR, count=2)
    second = Fault("*", FaultAction.DROP)
    plan = FaultPlan([first, second])
    taken = [plan.take("mac.addr_set"), plan.take("vlan.add"), plan.take("mac.addr_set")]
    assert taken == [first, second, first]
    assert plan.take("mac.addr_set") is None


def test_a_fault_may_meet_one_command_of_many():
    rare = Fault("vlan.add", FaultAction.ERR, count=2, every=3)
    plan = FaultPlan([rare])
    assert [plan.take("vlan.add") for _ in range(8)] == [None, None, rare, None, None, rare, None, None]
    assert not plan


def test_faults_can_be_added_and_forgotten():
    plan = FaultPlan()
    fault = Fault("vlan.add", FaultAction.TWICE)
    plan.add(fault)
    assert plan.take("vlan.add") is fault
    plan.add(fault)
    plan.clear()
    assert plan.take("vlan.add") is None


@pytest.mark.parametrize("values", [{"call": "poweroff"}, {"count": 0}, {"after": -1}])
def test_a_call_that_could_never_fail_is_refused(values):
    with pytest.raises(ValueError, match=f"^{next(iter(values))}: "):
        CallFault(**{"call": "suspend"} | values)


def test_calls_fail_after_those_that_go_well():
    first, second = CallFault("suspend", count=2, after=1), CallFault("suspend", after=2)
    plan = CallFaultPlan([first, second])
    assert plan.take("resume") is None
    assert [plan.take("suspend") for _ in range(5)] == [None, first, first, second, None]
