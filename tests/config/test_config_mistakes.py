"""Configurations that are wrong: each mistake is reported with its place and reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cvqd import config
from cvqd.config import load
from cvqd.errors import ConfigError
from kit.config_texts import MINIMAL, problems

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a syntax error ends the reading
        ("device: [\n", "2:1: yaml: expected the node content, but found '<stream end>'"),
        ("device: {kind: simulator}\n  mtu: 3\n", "2:3: yaml: expected <block end>, but found"),
        ("device: \x07", "1:9: yaml: special characters are not allowed"),
        (
            MINIMAL + "---\n" + MINIMAL,
            "2:1: yaml: expected a single document in the stream but found another document",
        ),
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
            "1:16: device.kind: 'simulater' is not one of vhost-vdpa, simulator; did you mean simulator?",
        ),
        ("device: simulator\n", "1:9: device: expected a mapping with kind: vhost-vdpa or simulator"),
        ("device:\n", "1:8: device: expected a mapping with kind: vhost-vdpa or simulator"),
        ("device: {kind: vhost-vdpa}\n", "1:9: device: exactly one of path and vdpa names the device"),
        (
            "device: {kind: vhost-vdpa, path: /dev/a, vdpa: b}\n",
            "1:9: device: exactly one of path and vdpa names the device",
        ),
        ("device: {kind: vhost-vdpa, path: dev}\n", "1:34: device.path: 'dev' is not an absolute path"),
        ("device: {kind: vhost-vdpa, vdpa: ../x}\n", "1:34: device.vdpa: '../x' is not a name such as vdpa0"),
        ("device: {kind: vhost-vdpa, path: /a, mtu: 3}\n", "1:38: device.mtu: unknown key"),
        # wrong types
        (MINIMAL + "log: [info]\n", "2:6: log: expected a mapping with keys such as level"),
        (MINIMAL + "isolation: [require]\n", "2:12: isolation: expected require, prefer"),
        (MINIMAL + "isolation:\n", "2:11: isolation: has no value; expected require, prefer"),
        (MINIMAL + "isolation: !!python/name:os.system\n", "2:12: isolation: tag tag:yaml.org,2002:python/"),
        ("device: {kind: simulator, mtu: big}\n", "1:32: device.mtu: 'big' is not a whole number"),
        ("device: {kind: simulator, mtu: 1500.5}\n", "1:32: device.mtu: '1500.5' is not a whole number"),
        (
            "device: {kind: simulator, features: MQ}\n",
            "1:37: device.features: expected a list of feature names",
        ),
        (MINIMAL + "targets: [a]\n", "2:10: targets: expected a mapping of names to devices"),
        (MINIMAL + "frontend: {inband: maybe}\n", "2:20: frontend.inband: 'maybe' is neither true nor false"),
        # values
        (
            MINIMAL + "isolation: requires\n",
            "2:12: isolation: 'requires' is not one of require, prefer; did you",
        ),
        (MINIMAL + "control_queue: {deadline: 1h}\n", "2:27: control_queue.deadline: '1h' is not a duration"),
        (
            MINIMAL + "control_queue: {deadline: 0s}\n",
            "2:27: control_queue.deadline: 0ms is not between 1ms and",
        ),
        (MINIMAL + "control_queue: {deadline: 61}\n", "2:27: control_queue.deadline: 61s is not between"),
        (
            MINIMAL + "control_queue: {max_command: 64KB}\n",
            "2:30: control_queue.max_command: unit 'KB' is not one of B, KiB, MiB; did you mean KiB?",
        ),
        (
            MINIMAL + "control_queue: {max_command: 1GiB}\n",
            "2:30: control_queue.max_command: unit 'GiB' is not one of",
        ),
        (
            MINIMAL + "control_queue: {max_command: 17MiB}\n",
            "2:30: control_queue.max_command: 17MiB is not between 256B and 16MiB",
        ),
        (
            MINIMAL + "policy: {mac: {change: refuse}}\n",
            "2:24: policy.mac.change: 'refuse' is not one of allowed, refused; did you mean refused?",
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
            "2:25: policy.mac.change[0]: 33:33:* is not a station's",
        ),
        (
            MINIMAL + "policy: {mac: {change: {to: all}}}\n",
            "2:24: policy.mac.change: expected allowed, refused or list of MAC addresses or prefixes",
        ),
        (
            MINIMAL + "policy: {promiscuous: no}\n",
            "2:23: policy.promiscuous: 'no' is not one of allowed, refused",
        ),
        (
            MINIMAL + "policy: {vlans: 5}\n",
            "2:17: policy.vlans: '5' is not one of all, none; a list of one is written [5]",
        ),
        (MINIMAL + "policy: {vlans: five}\n", "2:17: policy.vlans: 'five' is not one of all, none"),
        (
            MINIMAL + "---\n" + MINIMAL,
            "2:1: yaml: expected a single document in the stream but found another",
        ),
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
        (MINIMAL + "frontend: {mode: 0888}\n", "2:18: frontend.mode: '0888' is not a file mode"),
        (
            MINIMAL + "frontend: {socket: /" + "x" * 107 + "}\n",
            "2:20: frontend.socket: a path of 108 bytes; 107",
        ),
        (MINIMAL + 'state: {directory: "/a\\0b"}\n', "2:20: state.directory: '/a\\x00b' has unprintable"),
        (
            MINIMAL + "log: {level: loud}\n",
            "2:14: log.level: 'loud' is not one of debug, info, warning, error",
        ),
        ("device: {kind: simulator, mtu: 67}\n", "1:32: device.mtu: 67 is not between 68 and 65535"),
        (
            "device: {kind: simulator, mac: 01:00:00:00:00:00}\n",
            "1:32: device.mac: 01:00:00:00:00:00 is not a st",
        ),
        ("device: {kind: simulator, mac: 52:54}\n", "1:32: device.mac: '52:54' is not a MAC address"),
        (
            "device: {kind: simulator, features: [VERSION_1, MQQ]}\n",
            "1:49: device.features[1]: 'MQQ' is not one of",
        ),
        (
            "device: {kind: simulator, features: [VERSION_1]}\n",
            "1:37: device.features: VERSION_1 and ACCESS_PLATFORM cannot be left out",
        ),
        (
            "device: {kind: simulator, faults: [{command: mac.add_set, action: err}]}\n",
            "1:46: device.faults[0].command: 'mac.add_set' is not one of",
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
            "1:43: device.faults[0].call: 'poweroff' is not one of set_features",
        ),
        (
            "device: {kind: simulator, datapath: {kind: peer, bind: /a, connect: /a}}\n",
            "1:69: device.datapath.connect: is the same socket as bind",
        ),
        (
            "device: {kind: simulator, datapath: {kind: tap, interface: a/b}}\n",
            "1:60: device.datapath.interface: 'a/b' is not the name",
        ),
        (
            'device: {kind: simulator, datapath: {kind: tap, interface: "a\\0b"}}\n',
            "1:60: device.datapath.interface: 'a\\x00b' is not the name",
        ),
        (MINIMAL + "targets: {a b: {kind: simulator}}\n", "2:11: targets: 'a b' is not a name"),
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


@pytest.mark.parametrize("name", ["a b.yaml", "-x.yaml", "é.yaml", "x" * 49 + ".yaml", "a%i.yaml"])
def test_a_file_whose_stem_is_no_instance_name_is_refused(name: str):
    (only,) = problems(MINIMAL, f"/etc/cvqd/{name}")
    assert only.startswith(f"/etc/cvqd/{name}:1:1: instance: the file's name is the instance's")


def test_aliases_are_counted_where_they_stand():
    # a device with 2000 faults, of which each target has all
    faults = "[&z {command: '*', action: err}" + ", *z" * 1999 + "]"
    text = "device: &d {kind: simulator, faults: " + faults + "}\ntargets: {"
    (only,) = problems(text + ", ".join(f"t{number}: *d" for number in range(500)) + "}\n")
    assert "yaml: more than 131072 values" in only
    load_one = config.parse(text + "t: *d}\n", "vm0.yaml")
    assert load_one.targets["t"] == load_one.device


def test_a_kind_of_device_that_is_a_novel_is_told_in_a_line():
    (only,) = problems("device: {kind: " + "x" * 200_000 + "}\n")
    assert len(only) < 200


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
    assert caught.value.problems == [f"{file}:2:4: yaml: not UTF-8: invalid start byte"]
    file.write_bytes(MINIMAL.encode() + b"#" * config.MAX_BYTES)
    with pytest.raises(ConfigError, match="file: more than 262144 bytes"):
        load(file)
