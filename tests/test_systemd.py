"""The units as they are installed, by systemd's own tools: what is wrong they say only in what they print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cvqd.host.activation import CONTROL, FRONTEND

SOURCE = Path(__file__).resolve().parents[1] / "systemd"
TEMPLATES = ("cvqd@.service", "cvqd@.socket", "cvqd-control@.socket")
INSTALLED = {
    *(f"lib/systemd/system/{name}" for name in (*TEMPLATES, "cvqd.target")),
    "lib/sysusers.d/cvqd.conf",
    "lib/tmpfiles.d/cvqd.conf",
    "lib/udev/rules.d/70-cvqd.rules",
}


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CVQD_REQUIRE") == "all":
            pytest.fail(f"CVQD_REQUIRE=all, but {name} is not installed (Debian package systemd)")
        pytest.skip(f"{name} is not installed")
    return found


def said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout + done.stderr


def install(destination: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(SOURCE / "install.sh"), *words],
        env={"PATH": os.environ["PATH"], "DESTDIR": str(destination), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The directory of the installed units; their program is one that exists here."""
    # as root or not: nothing is run on this machine where DESTDIR is set
    assert install(tmp_path, "/bin/true").returncode == 0
    return tmp_path / "usr/local/lib/systemd/system"


def settings(unit: Path) -> dict[str, str]:
    lines = [line for line in unit.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_one_command_installs_everything_below_a_prefix(tmp_path: Path):
    done = install(tmp_path, PREFIX="/usr")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {str(path.relative_to(tmp_path / "usr")) for path in files} == INSTALLED
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}
    service = settings(tmp_path / "usr/lib/systemd/system/cvqd@.service")
    assert service["ExecStart"] == "/usr/bin/cvqd run --config /etc/cvqd/%i.yaml"


def test_every_file_for_systemd_is_installed():
    names = {Path(name).name for name in INSTALLED} | {"install.sh", "sysusers.conf", "tmpfiles.conf"}
    assert {path.name for path in SOURCE.iterdir()} == names - {"cvqd.conf"}


@pytest.mark.parametrize("program", ["bin/cvqd", "/root/.venv/bin/cvqd", "/home/me/bin/cvqd", "/tmp/cvqd"])
def test_a_program_that_the_units_could_not_run_is_refused(tmp_path: Path, program: str):
    done = install(tmp_path, program)
    assert done.returncode == 64
    assert done.stderr.startswith(f"install.sh: {program}: ")
    assert not list(tmp_path.iterdir())


def test_the_units_verify_without_a_word(units: Path):
    names = [*(name.replace("@", "@vm0") for name in TEMPLATES), "cvqd.target"]
    paths = [str(units / name) for name in names]
    analyze = tool("systemd-analyze")
    # a template is verified by an instance, which may be named without being there
    assert said(analyze, "verify", "--man=no", "--recursive-errors=no", *paths) == ""


def test_verification_is_not_silent_whatever_it_reads(units: Path):
    with (units / "cvqd@.service").open("a") as unit:
        unit.write("[Service]\nWatchDogSec=10s\n")
    paths = [str(units / "cvqd@vm0.service")]
    assert "WatchDogSec" in said(tool("systemd-analyze"), "verify", "--man=no", *paths)


def enabled(root: Path) -> set[str]:
    """What starts what, as ``TARGET.wants/UNIT``."""
    links = root.joinpath("etc/systemd/system").glob("*.wants/*")
    return {f"{link.parent.name}/{link.name}" for link in links}


def of_instance(name: str) -> set[str]:
    """What a boot has to start of one."""
    return {
        f"multi-user.target.wants/cvqd@{name}.service",
        f"cvqd.target.wants/cvqd@{name}.service",
        f"sockets.target.wants/cvqd@{name}.socket",
    }


def test_what_is_enabled_is_started_at_boot_and_disabling_one_leaves_the_others(tmp_path: Path):
    assert install(tmp_path, PREFIX="/usr").returncode == 0
    systemctl = (tool("systemctl"), f"--root={tmp_path}")
    told = said(*systemctl, "enable", "cvqd@vm0", "cvqd@vm1")
    assert enabled(tmp_path) == of_instance("vm0") | of_instance("vm1"), told
    told = said(*systemctl, "disable", "cvqd@vm0")
    assert enabled(tmp_path) == of_instance("vm1"), told


def test_the_service_is_as_closed_as_it_can_be(units: Path):
    unit = str(units / "cvqd@.service")
    told = said(tool("systemd-analyze"), "security", "--offline=true", "--threshold=15", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert found, told
    assert float(found[1]) <= 1.0, told


def test_the_sockets_have_the_names_that_the_daemon_knows(units: Path):
    frontend, control = (settings(units / name) for name in TEMPLATES[1:])
    assert (frontend["FileDescriptorName"], control["FileDescriptorName"]) == (FRONTEND, CONTROL)
    assert (frontend["SocketGroup"], control["SocketGroup"]) == ("kvm", "cvqd")
    assert control["Service"] == "cvqd@%i.service"


def test_users_and_directories_are_taken_by_systemds_own_tools(tmp_path: Path):
    assert install(tmp_path).returncode == 0
    lib = tmp_path / "usr/local/lib"
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "group").write_text("root:x:0:\nkvm:x:105:\n")
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    made = said(tool("systemd-sysusers"), f"--root={tmp_path}", str(lib / "sysusers.d/cvqd.conf"))
    groups = [line.split(":")[0] for line in (etc / "group").read_text().splitlines()]
    assert sorted(groups) == ["cvqd", "kvm", "root"], made
    created = said(
        tool("systemd-tmpfiles"), "--create", f"--root={tmp_path}", str(lib / "tmpfiles.d/cvqd.conf")
    )
    assert (tmp_path / "run/cvqd").is_dir(), created
