"""Configurations that are right: every key is read, the rest has its default, and the examples are such."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cvqd import config
from cvqd.config import CharDevice, Config, IsolationPolicy, load, parse
from cvqd.core.site_policy import MacRule, MacTableRule, SitePolicy
from cvqd.simulator.spec import CallFault, Fault, FaultAction, Groups, LoopbackPath, PeerPath, SimulatorSpec
from cvqd.verbs import instances
from cvqd.wire import net_control
from cvqd.wire.virtio import Feature, mask_of
from kit.config_texts import MINIMAL, SIMULATOR

EXAMPLES = Path(__file__).parents[2] / "config"


def test_a_device_alone_is_a_complete_configuration():
    found = parse(MINIMAL, "/etc/cvqd/vm0.yaml")
    assert found == Config(
        instance="vm0",
        device=CharDevice("/dev/vhost-vdpa-0", None, None),
        targets={},
        frontend=config.FrontendConfig("/run/cvqd/vm0.sock", 0o660, inband=False),
        control=config.ControlConfig("/run/cvqd/vm0.control", 0o660),
        isolation=IsolationPolicy.REQUIRE,
        control_queue=config.ControlQueueConfig(1.0, 65536),
        policy=SitePolicy(),
        state=config.StateConfig(None),
        log=config.LogConfig("info", "auto"),
    )


def test_every_key_is_read():
    text = """
device: {kind: vhost-vdpa, vdpa: vdpa0, mac: 52:54:00:12:34:56}
targets: {spare: {kind: vhost-vdpa, path: /dev/vhost-vdpa-1}, sim: {kind: simulator}}
frontend: {socket: /tmp/a.sock, mode: "0600", inband: yes}
control: {socket: /tmp/a.control, mode: 0666}
isolation: prefer
control_queue: {deadline: 250ms, max_command: 1MiB}
policy:
  mac: {change: [52:54:00:12:34:56, 02:*]}
  promiscuous: refused
  all_multicast: refused
  vlans: [5, 100-102, 4094]
  mac_table: {unicast: 0, multicast: 64}
  pairs: 2
state: {directory: /srv//cvqd/}
log: {level: debug, format: json}
"""
    found = parse(text, "a.yaml")
    assert found.device == CharDevice(None, "vdpa0", bytes.fromhex("525400123456"))
    assert found.targets == {"spare": CharDevice("/dev/vhost-vdpa-1", None, None), "sim": SimulatorSpec()}
    assert found.frontend == config.FrontendConfig("/tmp/a.sock", 0o600, inband=True)
    assert found.control == config.ControlConfig("/tmp/a.control", 0o666)
    assert found.isolation is IsolationPolicy.PREFER
    assert found.control_queue == config.ControlQueueConfig(0.25, 1 << 20)
    assert found.policy == SitePolicy(
        MacRule((bytes.fromhex("525400123456"), b"\x02")),
        promiscuous=False,
        all_multicast=False,
        vlans=frozenset({5, 100, 101, 102, 4094}),
        mac_table=MacTableRule(0, 64),
        pairs=2,
    )
    assert found.state.directory == "/srv/cvqd"
    assert found.log == config.LogConfig("debug", "json")


def test_every_key_of_the_simulator_is_read():
    text = """
device:
  kind: simulator
  mac: 02:00:00:00:00:01
  mtu: 9000
  max_queue_pairs: 8
  groups: per-queue
  address_spaces: 3
  features: [VERSION_1, ACCESS_PLATFORM, CTRL_VQ, MQ]
  datapath: {kind: peer, bind: /tmp/one, connect: /tmp/two}
  faults:
    - {command: mac.addr_set, action: delay, delay: 1.5s, count: 2}
    - {command: "*", action: err}
"""
    found = parse(text, "vm0.yaml").device
    assert isinstance(found, SimulatorSpec)
    assert found.mac == bytes.fromhex("020000000001")
    assert (found.mtu, found.max_queue_pairs, found.address_spaces) == (9000, 8, 3)
    assert found.groups is Groups.PER_QUEUE
    assert found.features == mask_of(Feature.VERSION_1, Feature.ACCESS_PLATFORM, Feature.CTRL_VQ, Feature.MQ)
    assert found.datapath == PeerPath("/tmp/one", "/tmp/two")
    first, second = found.faults
    assert (first.command, first.action, first.delay, first.count) == (
        "mac.addr_set",
        FaultAction.DELAY,
        1.5,
        2,
    )
    assert (second.command, second.action, second.count) == ("*", FaultAction.ERR, 1)


def test_calls_that_are_to_fail_are_kept_apart_from_commands():
    text = """\
device:
  kind: simulator
  faults:
    - {call: suspend, action: err, count: 2}
    - {command: mac.addr_set, action: err}
    - {call: set_vring_enable, action: err, after: 3}
"""
    found = parse(text, "vm0.yaml").device
    assert isinstance(found, SimulatorSpec)
    assert found.faults == (Fault("mac.addr_set", FaultAction.ERR),)
    assert found.call_faults == (CallFault("suspend", 2), CallFault("set_vring_enable", after=3))


def test_a_target_may_name_the_peer_paths_of_the_device():
    path = "{kind: simulator, datapath: {kind: peer, bind: /a, connect: /b}}"
    found = parse(f"device: {path}\ntargets: {{spare: {path}}}\n", "vm0.yaml")
    assert found.targets["spare"] == found.device


def test_the_simulators_defaults_are_those_of_its_specification():
    assert parse(SIMULATOR, "vm0.yaml").device == SimulatorSpec()
    assert parse("device: {kind: simulator, datapath: {kind: loopback}}", "a.yaml").device == SimulatorSpec(
        datapath=LoopbackPath()
    )


def test_a_section_whose_keys_are_all_commented_out_has_its_defaults():
    assert parse(MINIMAL + "log:\n  # level: debug\n", "vm0.yaml").log == config.LogConfig("info", "auto")
    assert parse(MINIMAL + "targets:\n  # spare: {kind: simulator}\n", "vm0.yaml").targets == {}


def test_the_examples_are_right_and_the_first_shows_the_defaults():
    shown = load(EXAMPLES / "vm0.yaml")
    # to say where state is kept is to insist on it
    assert shown.state == config.StateConfig(config.DEFAULT_STATE.format(instance="vm0"))
    minimal = parse("device: {kind: vhost-vdpa, vdpa: vdpa0}\n", "vm0.yaml")
    assert replace(shown, state=config.StateConfig(None)) == minimal
    simulated = load(EXAMPLES / "simulator.yaml").device
    assert isinstance(simulated, SimulatorSpec)
    assert simulated.max_queue_pairs == 4


def test_the_manuals_policy_is_right():
    text = (EXAMPLES.parent / "README.md").read_text()
    (example,) = re.findall(r"```yaml\n(policy:\n.*?)```", text, re.DOTALL)
    found = parse(MINIMAL + example, "vm0.yaml").policy
    assert found == SitePolicy(
        MacRule(()),
        promiscuous=False,
        vlans=frozenset({5, *range(100, 200)}),
        mac_table=MacTableRule(unicast=0),
        pairs=2,
    )


def test_the_manuals_table_has_every_key_that_the_examples_use():
    keys = {line.split("`")[1] for line in config.table()[2:]}

    def used(section: dict[str, Any], prefix: str = "") -> set[str]:
        found = set()
        for key, value in section.items():
            found |= used(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key}
        return found

    for name in ("vm0.yaml", "simulator.yaml"):
        assert used(yaml.safe_load((EXAMPLES / name).read_text())) <= keys
    assert all(line.count("|") == 5 for line in config.table())


@pytest.mark.parametrize("command", ["*", *net_control.NAMES])
def test_a_fault_can_be_planned_for_every_command(command: str):
    text = f"device: {{kind: simulator, faults: [{{command: '{command}', action: drop}}]}}"
    found = parse(text, "vm0.yaml").device
    assert isinstance(found, SimulatorSpec)
    assert found.faults[0].command == command


def test_a_verb_asks_where_an_instance_listens_by_default():
    (asked,) = instances.control_sockets(argparse.Namespace(config=None, instance="vm7"))
    assert parse(SIMULATOR, "/etc/cvqd/vm7.yaml").control.socket == asked
