from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import trio
import yaml

from cvqd import __version__, cli, service
from cvqd.errors import (
    ConfigError,
    CvqdError,
    DeviceError,
    FrontendError,
    IsolationError,
    SocketError,
    UnavailableError,
    leaves,
)
from cvqd.host import vdpa_node
from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.verbs import check_config, failure, instances

EXAMPLES = Path(__file__).parents[2] / "config"
DISCOVERY_TYPES = {
    "9p",
    "balloon",
    "block",
    "console",
    "crypto",
    "gpu",
    "input",
    "net",
    "rng",
    "scsi",
    "vsock",
    "fs",
}


def cvqd(*arguments: str, python: tuple[str, ...] = (), **options: Any) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return subprocess.run(
        [sys.executable, *python, "-m", "cvqd", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        **options,
    )


def test_version_and_capabilities_are_on_standard_output():
    assert cvqd("--version").stdout == f"cvqd {__version__}\n"
    capabilities = cvqd("--print-capabilities")
    assert json.loads(capabilities.stdout) == {"type": "net", "features": []}
    assert (capabilities.returncode, capabilities.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "--config", "a.yaml", "--fd", "three"],
        ["run", "--config", "a.yaml", "--fd", "3", "--socket-path", "x"],
        ["check-config"],
        ["status", "vm0", "--config", "a.yaml"],
        ["probe", "--simulator", "vdpa0"],
        ["announce"],
        ["announce", "vm0", "--config", "a.yaml"],
        ["trace", "vm0", "--count", "0"],
        ["rehearse", "vm0", "--to", "spare", "--times", "0"],
        ["rehearse", "vm0", "--to", "spare", "--times", "1001"],
        ["rehearse", "vm0", "--to", "spare", "--times", "two"],
        ["rehearse", "vm0", "--to", "spare", "--times", "2"],
        ["status", "/etc/cvqd/vm0.yaml"],
        ["status", ""],
    ],
)
def test_a_wrong_command_line_is_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 64
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("usage: cvqd")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "--fly"], "cvqd status: unrecognized arguments: --fly"),
        (["snapshot", "show", "a", "b"], "cvqd snapshot show: unrecognized arguments: b"),
        (["snapshot"], "cvqd snapshot: the following arguments are required: VERB"),
    ],
)
def test_the_usage_shown_is_that_of_the_verb(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        cli.main(arguments)
    usage, message = capsys.readouterr().err.splitlines()
    assert message == said
    assert usage.startswith(f"usage: {said.partition(':')[0]} [-h]")


def test_check_config_reports_every_file_and_opens_nothing(tmp_path: Path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("device: {kind: vhost-vdpa, path: /dev/vhost-vdpa-nowhere}\n")
    bad.write_text("device: {kind: vhost-vdpa}\nlgo: {}\n")
    assert cvqd("check-config", str(good)).returncode == 0
    found = cvqd("check-config", str(bad), str(good), str(tmp_path / "none.yaml"))
    assert found.returncode == 78
    assert found.stdout == ""
    assert found.stderr.splitlines() == [
        f"{bad}:1:9: device: exactly one of path and vdpa names the device",
        f"{bad}:2:1: lgo: unknown key; did you mean log?",
        f"{tmp_path}/none.yaml:1:1: file: No such file or directory",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["check-config", "FILE"],
        ["status", "--config", "FILE"],
        ["announce", "--config", "FILE"],
    ],
)
def test_the_short_verbs_load_no_event_loop(tmp_path: Path, arguments: list[str]):
    file = tmp_path / "vm0.yaml"
    file.write_text(yaml.safe_dump(simulator_config(tmp_path)))
    arguments = [str(file) if word == "FILE" else word for word in arguments]
    loaded = cvqd(*arguments, python=("-X", "importtime")).stderr
    assert "argparse" in loaded
    for module in ("trio", "structlog", "pathlib", "difflib", "secrets"):
        assert f" {module}\n" not in loaded, module


@pytest.mark.parametrize("verb", [["status", "--json"], ["announce"]], ids=lambda words: words[0])
def test_asking_what_does_not_run_says_so(tmp_path: Path, verb: list[str]):
    file = tmp_path / "vm0.yaml"
    file.write_text(yaml.safe_dump(simulator_config(tmp_path)))
    found = cvqd(*verb, "--config", str(file))
    assert (found.returncode, found.stdout) == (69, "")
    assert found.stderr == f"cvqd: {tmp_path}/vm0.control: no instance is running here\n"


def test_where_nobody_may_look_for_instances_none_is_not_the_answer(monkeypatch: Any, capsys: Any):
    monkeypatch.setattr(instances, "DIRECTORY", "/nobody/looks")
    monkeypatch.setattr(os, "listdir", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    assert cli.main(["status"]) == 77
    assert capsys.readouterr().err == "cvqd: /nobody/looks: no permission to look for instances\n"


def test_a_locale_without_a_letter_gets_a_question_mark(monkeypatch: Any):
    out = io.TextIOWrapper(io.BytesIO(), encoding="koi8-r")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(cli, "_dispatch", lambda _: int(out.write("5 µs\n") > 9))
    assert cli.main(["demo"]) == 0
    assert out.buffer.getvalue() == b"5 ?s\n"


def test_status_without_a_name_asks_every_instance(tmp_path: Path, monkeypatch: Any, capsys: Any):
    monkeypatch.setattr(instances, "DIRECTORY", str(tmp_path))
    assert cli.main(["status", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == []
    assert "no instance has a control socket" in shown.err


def test_probe_shows_the_simulator_to_people_and_programs():
    shown = cvqd("probe", "--simulator")
    assert shown.returncode == 0
    assert shown.stderr == "", "there is no device whose user would want to know of a reset"
    assert "isolation     isolated" in shown.stdout.splitlines()
    found = json.loads(cvqd("probe", "--simulator", "--json").stdout)
    assert set(found) == {"schema", "device", "isolation"}
    assert found["device"]["kind"] == "simulator"
    assert found["isolation"]["verdict"] == "isolated"


def test_probe_gives_the_reason_where_the_queue_cannot_be_isolated(tmp_path: Path):
    file = tmp_path / "vm0.yaml"
    file.write_text("device: {kind: simulator, groups: single}\n")
    found = json.loads(cvqd("probe", "--config", str(file), "--json").stdout)
    assert found["isolation"]["verdict"] == "shared"
    assert "shares group 0" in found["isolation"]["reason"]


def test_a_probe_of_all_says_which_driver_has_a_device_without_a_node(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    nodes = [vdpa_node.Node("vdpa3", "", "virtio_vdpa")]
    monkeypatch.setattr(vdpa_node, "list_nodes", lambda *_: nodes)
    assert cli.main(["probe"]) == 69
    assert "vdpa3: driver virtio_vdpa has it; bind it to vhost_vdpa" in capsys.readouterr().err


async def test_a_probe_of_a_busy_device_names_the_instance_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    async def busy(*_: Any) -> None:
        raise UnavailableError("simulator", errno.EBUSY, "busy: another process has it open", 75)

    monkeypatch.setattr(service, "probe", busy)
    monkeypatch.setattr(instances, "DIRECTORY", str(tmp_path))
    # one that does not answer is passed over
    (tmp_path / "a.control").write_text("")
    async with DaemonProcess.start(tmp_path, simulator_config(tmp_path)):
        assert await trio.to_thread.run_sync(cli.main, ["probe", "--simulator"]) == 75
        said = capsys.readouterr().err
        assert said.endswith("cvqd: instance vm0 has it: cvqd status vm0\n")
        assert "another process has it open" in said


def test_probe_of_a_device_that_is_not_there_is_unavailable():
    found = cvqd("probe", "/dev/vhost-vdpa-nowhere", "--json")
    assert (found.returncode, found.stdout) == (69, "")
    assert "a probe resets the device" in found.stderr
    assert "/dev/vhost-vdpa-nowhere: " in found.stderr
    assert "Traceback" not in found.stderr


async def test_a_running_instance_answers_status_and_ends_in_order(tmp_path: Path):
    async with DaemonProcess.start(tmp_path, simulator_config(tmp_path)) as daemon:
        found = cvqd("status", "--config", str(daemon.config), "--json")
        assert found.returncode == 0
        status = json.loads(found.stdout)
        assert (status["instance"], status["phase"]) == ("vm0", "waiting")
        assert status["isolation"]["verdict"] == "isolated"
        shown = cvqd("status", "--config", str(daemon.config)).stdout
        assert shown.splitlines()[0].split() == ["vm0", "waiting"]
        assert await daemon.stop() == 0
        assert daemon.stray == []
        assert [event["seq"] for event in daemon.events] == list(range(1, len(daemon.events) + 1))
    assert not (tmp_path / "vm0.sock").exists()
    assert not (tmp_path / "vm0.control").exists()


def failing(tmp_path: Path, **changes: Any) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "vm0.yaml"
    file.write_text(yaml.safe_dump(simulator_config(tmp_path) | changes))
    return cvqd("run", "--config", str(file))


def last_event(found: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(found.stderr.splitlines()[-1])
    return event


def test_run_refuses_a_device_that_cannot_isolate(tmp_path: Path):
    found = failing(tmp_path, device={"kind": "simulator", "groups": "single"})
    assert found.returncode == 78
    event = last_event(found)
    assert (event["event"], event["blame"], event["exit_code"]) == ("service.failed", "IsolationError", 78)
    assert event["reason"] == (
        "isolation is required: control queue 2: queue 2 shares group 0 with queues 0, 1;"
        " `isolation: prefer` would let it share"
    )


def test_run_says_when_its_socket_cannot_be_made(tmp_path: Path):
    found = failing(tmp_path, frontend={"socket": str(tmp_path / "none" / "vm0.sock")})
    assert found.returncode == 73
    assert f"the directory {tmp_path}/none does not exist" in last_event(found)["reason"]


def test_run_with_a_bad_configuration_says_what_check_config_says(tmp_path: Path):
    found = failing(tmp_path, isolation="maybe")
    assert found.returncode == 78
    assert found.stderr.startswith(f"{tmp_path}/vm0.yaml:")
    assert "'maybe' is not one of require, prefer" in found.stderr


def test_a_reader_that_has_read_enough_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [sys.executable, "-m", "cvqd", "--print-capabilities"], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    _, said = process.communicate(timeout=30)
    assert b"Traceback" not in said
    assert process.returncode != -signal.SIGPIPE


GROUPS = [
    (ConfigError(["a:1:1: k: r"]), 78),
    (ExceptionGroup("", [ValueError(), FrontendError("SET_OWNER", "x")]), 76),
    (
        ExceptionGroup(
            "", [DeviceError("c", 5), ExceptionGroup("", [UnavailableError("/d", 16, "busy", 75)])]
        ),
        75,
    ),
    (ExceptionGroup("", [DeviceError("c", 5), IsolationError("shared")]), 78),
    (SocketError("/s", "r"), 73),
    (ExceptionGroup("", [KeyError("x"), OSError(5, "x")]), 70),
    (OSError(28, "full"), 71),
    (ZeroDivisionError(), 70),
]


@pytest.mark.parametrize(("error", "code"), GROUPS)
def test_the_most_specific_blamed_error_decides_the_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
):
    assert failure.report(error) == code
    shown = capsys.readouterr().err
    surprising = any(not isinstance(leaf, CvqdError) for leaf in leaves(error))
    assert ("Traceback" in shown or "Error" in shown) == surprising


def test_a_surprise_in_a_verb_is_our_bug(monkeypatch: Any, capsys: Any):
    def surprise(_: object) -> int:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(check_config, "_check_config", surprise)
    assert cli.main(["check-config", "x"]) == 70
    assert "ZeroDivisionError: surprise" in capsys.readouterr().err
