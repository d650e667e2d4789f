from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvqd import config
from cvqd.config import CharDevice, Config, IsolationPolicy, load, parse
from cvqd.core.site_policy import MacRule, MacTableRule, SitePolicy
from cvqd.errors import ConfigError
from cvqd.simulator.spec import CallFault, Fault, FaultAction, Groups, LoopbackPath, PeerPath, SimulatorSpec
from cvqd.verbs import instances
from cvqd.wire import net_control
from cvqd.wire.virtio import Feature, mask_of

EXAMPLES = Path(__file__).parents[1] / "config"
MINIMAL = "device: {kind: vhost-vdpa, path: /dev/vhost-vdpa-0}\n"
SIMULATOR = "device: {kind: simulator}\n"


def problems(text: str, file: str = "vm0.yaml") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, file)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a syntax error ends the reading
        ("device: [\n", "2:1: yaml: expected the node content, but found '<stream end>'"),
        ("device: {kind: simulator}\n  mtu: 3\n", "2:3: yaml: expected <block end>, but found"),
        ("device: \x07", "1:9: yaml: special characters are not allowed"),
        (MINIMAL + "---\n" + MINIMAL, "2:1: yaml: but found another document"),
        ('device: "\\UFFFFFFFF"', "1:"),
        ("%YAML 1" + "0" * 5000 + ".1\n--- {}\n", "1:"),
        ("[" * 5000, "1:1: yaml: nested too deeply"),
        # what stands at the top
        ("", "1:1: device: missing; the file is empty"),
        ("# nothing\n", "1:1: device: missing; the file is empty"),
        ("log: {}\n", "1:1: device: missing"),
        ("- device\n", "1:1: yaml: expected a mapping with keys such as device"),
        ("just words\n", "1:1: yaml: expected a mapping with keys such as device"),
        # keys
        (MINIMAL + "isolaton: require\n", "2:1: isolaton: unknown key; did you mean isolation?"),
        (MINIMAL + "zzz: 1\n", "2:1: zzz: unknown key"),
        (MINIMAL + "log: {levle: info}\n", "2:7: log.levle: unknown key; did you mean level?"),
        (MINIMAL + "log: {level: info, level: debug}\n", "2:20: log.level: duplicate key, first in line 2"),
        (MINIMAL + "? [a]\n: 1\n", "2:3: yaml: a key must be a word"),
        (MINIMAL + '"a\\nb": 1\n', "2:1: 'a\\nb': unknown key"),
        # kinds of device
        ("device: {path: /dev/x}\n", "1:9: device.kind: missing; one of vhost-vdpa, simulator"),
        (
            "device: {kind: simulater}\n",
            "1:16: device.kind: 'simulater' is none of vhost-vdpa, simulator; did you mean simulator?",
        ),
        ("device: simulator\n", "1:9: device: expected a mapping with kind: vhost-vdpa or simulator"),
        ("device:\n", "1:8: device: expected a mapping with kind: vhost-vdpa or simulator"),
        ("device: {kind: vhost-vdpa}\n", "1:9: device: exactly one of path and vdpa names the device"),
        (
            "device: {kind: vhost-vdpa, path: /dev/a, vdpa: b}\n",
            "1:9: device: exactly one of path and vdpa names the device",
        ),
        ("device: {kind: vhost-vdpa, path: dev}\n", "1:34: device.path: 'dev' is no absolute path"),
        ("device: {kind: vhost-vdpa, vdpa: ../x}\n", "1:34: device.vdpa: '../x' is no name such as vdpa0"),
        ("device: {kind: vhost-vdpa, path: /a, mtu: 3}\n", "1:38: device.mtu: unknown key"),
        # wrong types
        (MINIMAL + "log: [info]\n", "2:6: log: expected a mapping with keys such as level"),
        (MINIMAL + "isolation: [require]\n", "2:12: isolation: expected `require`, `prefer`"),
        (MINIMAL + "isolation:\n", "2:11: isolation: has no value; expected `require`, `prefer`"),
        (MINIMAL + "isolation: !!python/name:os.system\n", "2:12: isolation: tag tag:yaml.org,2002:python/"),
        ("device: {kind: simulator, mtu: big}\n", "1:32: device.mtu: 'big' is not a whole number"),
        ("device: {kind: simulator, mtu: 1500.5}\n", "1:32: device.mtu: '1500.5' is not a whole number"),
        (
            "device: {kind: simulator, features: MQ}\n",
            "1:37: device.features: expected a list of feature name",
        ),
        (MINIMAL + "targets: [a]\n", "2:10: targets: expected names to"),
        (MINIMAL + "frontend: {inband: maybe}\n", "2:20: frontend.inband: 'maybe' is neither true nor false"),
        # values
        (
            MINIMAL + "isolation: requires\n",
            "2:12: isolation: 'requires' is none of require, prefer; did you",
        ),
        (MINIMAL + "control_queue: {deadline: 1h}\n", "2:27: control_queue.deadline: '1h' is no duration"),
        (
            MINIMAL + "control_queue: {deadline: 0s}\n",
            "2:27: control_queue.deadline: 0ms is not between 1ms and",
        ),
        (MINIMAL + "control_queue: {deadline: 61}\n", "2:27: control_queue.deadline: 61s is not between"),
        (
            MINIMAL + "control_queue: {max_command: 64KB}\n",
            "2:30: control_queue.max_command: unit 'KB' is none of B, KiB, MiB; did you mean KiB?",
        ),
        (
            MINIMAL + "control_queue: {max_command: 1GiB}\n",
            "2:30: control_queue.max_command: unit 'GiB' is none of",
        ),
        (
            MINIMAL + "control_queue: {max_command: 17MiB}\n",
            "2:30: control_queue.max_command: 17MiB is not between 256B and 16MiB",
        ),
        (
            MINIMAL + "policy: {mac: {change: refuse}}\n",
            "2:24: policy.mac.change: 'refuse' is none of allowed, refused; did you mean refused?",
        ),
        (
            MINIMAL + "policy: {mac: refused}\n",
            "2:15: policy.mac: expected a mapping with keys such as change",
        ),
        (MINIMAL + "policy: {mac: {change: []}}\n", "2:24: policy.mac.change: an empty list; write refused"),
        (
            MINIMAL + "policy:\n  mac:\n    change:\n    - 52:54:00:*\n    - 52:54:*:01\n",
            "6:7: policy.mac.change[1]: '52:54:*:01' is neither an address nor a prefix such as 52:54:00:*",
        ),
        (
            MINIMAL + "policy: {mac: {change: [52:54:00]}}\n",
            "2:25: policy.mac.change[0]: '52:54:00' is neither",
        ),
        (
            MINIMAL + "policy: {mac: {change: [33:33:*]}}\n",
            "2:25: policy.mac.change[0]: 33:33:* is no station's",
        ),
        (
            MINIMAL + "policy: {mac: {change: {to: all}}}\n",
            "2:24: policy.mac.change: expected `allowed`, `refused` or list of MAC address or prefix",
        ),
        (
            MINIMAL + "policy: {promiscuous: no}\n",
            "2:23: policy.promiscuous: 'no' is none of allowed, refused",
        ),
        (MINIMAL + "policy: {vlans: 5}\n", "2:17: policy.vlans: '5' is none of all, none"),
        (MINIMAL + "policy: {vlans: []}\n", "2:17: policy.vlans: an empty list; write none"),
        (MINIMAL + "policy: {vlans: [1, 0]}\n", "2:21: policy.vlans[1]: 0 is not between 1 and 4094"),
        (MINIMAL + "policy: {vlans: [4000-5000]}\n", "2:18: policy.vlans[0]: 4000-5000 is not between 1 and"),
        (MINIMAL + "policy: {vlans: [9-3]}\n", "2:18: policy.vlans[0]: 9-3 ends before it begins"),
        (
            MINIMAL + "policy: {vlans: [a-b]}\n",
            "2:18: policy.vlans[0]: 'a-b' is neither a VLAN id nor a range",
        ),
        (MINIMAL + "policy: {pairs: 0}\n", "2:17: policy.pairs: 0 is not between 1 and 32768"),
        (
            MINIMAL + "policy: {mac_table: {unicast: -1}}\n",
            "2:31: policy.mac_table.unicast: -1 is not between 0 and 1000000",
        ),
        (
            MINIMAL + "policy: {mac_tables: {}}\n",
            "2:10: policy.mac_tables: unknown key; did you mean mac_table?",
        ),
        (MINIMAL + "frontend: {mode: 0888}\n", "2:18: frontend.mode: '0888' is no file mode"),
        (
            MINIMAL + "frontend: {socket: /" + "x" * 107 + "}\n",
            "2:20: frontend.socket: a path of 108 bytes; 107",
        ),
        (MINIMAL + 'state: {directory: "/a\\0b"}\n', "2:20: state.directory: '/a\\x00b' has unprintable"),
        (MINIMAL + "log: {level: loud}\n", "2:14: log.level: 'loud' is none of debug, info, warning, error"),
        ("device: {kind: simulator, mtu: 67}\n", "1:32: device.mtu: 67 is not between 68 and 65535"),
        (
            "device: {kind: simulator, mac: 01:00:00:00:00:00}\n",
            "1:32: device.mac: 01:00:00:00:00:00 is no st",
        ),
        ("device: {kind: simulator, mac: 52:54}\n", "1:32: device.mac: '52:54' is not a MAC address"),
        (
            "device: {kind: simulator, features: [VERSION_1, MQQ]}\n",
            "1:49: device.features[1]: 'MQQ' is none of",
        ),
        (
            "device: {kind: simulator, features: [VERSION_1]}\n",
            "1:37: device.features: VERSION_1 and ACCESS_PLATFORM cannot be left out",
        ),
        (
            "device: {kind: simulator, faults: [{command: mac.add_set, action: err}]}\n",
            "1:46: device.faults[0].command: 'mac.add_set' is none of",
        ),
        (
            "device: {kind: simulator, faults: [{action: err}]}\n",
            "1:36: device.faults[0]: exactly one of command and call says what goes wrong",
        ),
        (
            "device: {kind: simulator, faults: [{call: suspend, action: drop}]}\n",
            "1:60: device.faults[0].action: a call can only end in `err`",
        ),
        (
            "device: {kind: simulator, faults: [{call: poweroff, action: err}]}\n",
            "1:43: device.faults[0].call: 'poweroff' is none of set_features",
        ),
        (
            "device: {kind: simulator, datapath: {kind: peer, bind: /a, connect: /a}}\n",
            "1:69: device.datapath.connect: is the same socket as bind",
        ),
        (
            "device: {kind: simulator, datapath: {kind: tap, interface: a/b}}\n",
            "1:60: device.datapath.interface: 'a/b' is no name",
        ),
        (MINIMAL + "targets: {a b: {kind: simulator}}\n", "2:11: targets: 'a b' is no name"),
        (
            MINIMAL + "control: {socket: /x}\nfrontend: {socket: /x}\n",
            "2:10: control: its socket is the front-end's",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_place_and_reason(text: str, expected: str):
    (only,) = problems(text)
    assert only.startswith(f"vm0.yaml:{expected}")


def test_all_mistakes_of_a_file_are_reported_at_once_in_their_order():
    text = """\
log: {level: loud, colour: red}
device:
  kind: simulator
  mtu: 1
  max_queue_pairs: many
  faults:
    - {command: nothing, action: explode}
    - {command: mq.vq_pairs_set, action: err, count: 0}
frontend:
  socket: relative
  mode: 9
log: {}
targets:
  spare: {kind: tap}
"""
    places = [problem.split(": ")[0] + " " + problem.split(": ")[1] for problem in problems(text)]
    assert places == [
        "vm0.yaml:1:14 log.level",
        "vm0.yaml:1:20 log.colour",
        "vm0.yaml:4:8 device.mtu",
        "vm0.yaml:5:20 device.max_queue_pairs",
        "vm0.yaml:7:17 device.faults[0].command",
        "vm0.yaml:7:34 device.faults[0].action",
        "vm0.yaml:8:54 device.faults[1].count",
        "vm0.yaml:10:11 frontend.socket",
        "vm0.yaml:11:9 frontend.mode",
        "vm0.yaml:12:1 log",
        "vm0.yaml:14:17 targets.spare.kind",
    ]


def test_a_section_whose_keys_are_all_commented_out_has_its_defaults():
    assert parse(MINIMAL + "log:\n  # level: debug\n", "vm0.yaml").log == config.LogConfig("info", "auto")


@pytest.mark.parametrize("name", ["a b.yaml", "-x.yaml", "é.yaml", "x" * 49 + ".yaml", "a%i.yaml"])
def test_a_file_whose_stem_is_no_instance_name_is_refused(name: str):
    (only,) = problems(MINIMAL, f"/etc/cvqd/{name}")
    assert only.startswith(f"/etc/cvqd/{name}:1:1: instance: the file's name is the instance's")


def test_a_file_that_cannot_be_read_is_a_configuration_error(tmp_path: Path):
    for path, reason in ((tmp_path / "no.yaml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert caught.value.problems == [f"{path}:1:1: file: {reason}"]


def test_a_file_that_is_no_utf_8_or_too_long_is_refused(tmp_path: Path):
    file = tmp_path / "vm0.yaml"
    file.write_bytes(b"log: {}\nd: \xff\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.problems == [f"{file}:2:4: yaml: no UTF-8: invalid start byte"]
    file.write_bytes(MINIMAL.encode() + b"#" * config.MAX_BYTES)
    with pytest.raises(ConfigError, match="file: more than 262144 bytes"):
        load(file)


def test_the_examples_are_right_and_the_first_shows_the_defaults():
    shown = load(EXAMPLES / "vm0.yaml")
    # to say where state is kept is to insist on it
    assert shown.state == config.StateConfig(config.DEFAULT_STATE.format(instance="vm0"))
    assert replace(shown, state=config.StateConfig(None)) == parse(MINIMAL, "vm0.yaml")
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


def read_or_refuse(text: str) -> None:
    found: list[str] | Config
    try:
        found = parse(text, "vm0.yaml")
    except ConfigError as error:
        found = error.problems
    if isinstance(found, Config):
        assert found.instance == "vm0"
    else:
        assert found
        assert all(re.match(r"vm0\.yaml:[0-9]+:[0-9]+: .+: .+\Z", problem) for problem in found)


@given(st.text(max_size=200))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_text_is_a_configuration_or_a_configuration_error(text: str):
    read_or_refuse(text)


WORDS = [
    "device:",
    "kind",
    "simulator",
    "vhost-vdpa",
    "path",
    "vdpa",
    "mac",
    "mtu",
    "features",
    "faults",
    "datapath",
    "peer",
    "log",
    "level",
    "control_queue",
    "deadline",
    "targets",
    "frontend",
    "socket",
    "null",
    "~",
    "yes",
    "0x1F",
    "1e9",
    ".inf",
    "2001-01-01",
    "52:54:00:12:34:56",
    "<<",
    "!!int",
    "!x",
    "&a",
    "*a",
    "|",
    ">",
    "-",
    "?",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "#",
    "'",
    '"',
    "%",
    "@",
    "`",
    "---",
    "...",
]


@given(st.lists(st.sampled_from([*WORDS, " ", "\n", "\n  ", ": ", "\t", "\\"]), max_size=40))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_pieces_of_yaml_are_a_configuration_or_a_configuration_error(pieces: list[str]):
    read_or_refuse("".join(pieces))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "device",
                    "targets",
                    "frontend",
                    "control",
                    "log",
                    "kind",
                    "path",
                    "mtu",
                    "faults",
                    "features",
                    "datapath",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_structure_is_a_configuration_or_a_configuration_error(value: Any):
    read_or_refuse(yaml.safe_dump(value, allow_unicode=True))


def test_a_verb_asks_where_an_instance_listens_by_default():
    (asked,) = instances.control_sockets(argparse.Namespace(config=None, instance="vm7"))
    assert parse(SIMULATOR, "/etc/cvqd/vm7.yaml").control.socket == asked
