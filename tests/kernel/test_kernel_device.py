"""The host's side: boot the machine, run suites inside, hold their results."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.kernel_image import CHECKOUT

# a machine that is busy with other things takes three times as long
pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]


CARD = "tests/kernel/inside/card"
UNITS = "tests/kernel/inside/units"
INSIDE = ("tests/kernel/inside", f"--ignore={CARD}", f"--ignore={UNITS}")
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")


def passed(result):
    """How many tests passed; all must have."""
    report = result.stdout + result.stderr
    sys.stdout.write(report)
    found = re.search(r"^(\d+) passed(, \d+ deselected)? in", report, re.MULTILINE)
    assert found, report
    return int(found[1])


def collected(env, suites):
    """How many tests there are, as the host sees them."""
    listing = subprocess.run(
        [*PYTEST, "--collect-only", *suites],
        check=True,
        cwd=CHECKOUT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )
    found = re.search(r"^(\d+)(/\d+)? tests? collected", listing.stdout, re.MULTILINE)
    assert found, listing
    return int(found[1])


def run_inside(machine, *suites, under=(), timeout=540):
    """Run pytest inside, as arguments of ``under``: all that the host would collect passes; how many."""
    env = {
        "CVQD_KERNEL": "1",
        "CVQD_REQUIRE": "all",
        "CVQD_CONTRACT_DEVICE": "/dev/vhost-vdpa-0",
        "PYTEST_ADDOPTS": os.environ.get("PYTEST_ADDOPTS", ""),
        # not below /tmp, where this very run makes folders of the same names
        "PYTEST_DEBUG_TEMPROOT": "/run",
    }
    count = passed(machine.run([*under, *PYTEST, *suites], env=env, timeout=timeout))
    assert count == collected(env, suites) > 0
    return count


def test_commands_come_back_with_their_exit_code_and_both_streams(machine):
    result = machine.run(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert result == (7, "out\n", "err\n")


def test_a_command_that_does_not_end_is_killed_and_the_machine_goes_on(machine):
    result = machine.run(["sleep", "1000"], timeout=0.5)
    assert result.code == -9
    assert "killed after 0.5 s" in result.stderr
    assert machine.run(["true"]).code == 0


def test_nothing_written_inside_reaches_the_host(machine):
    # a place that was there before the machine: inside, the host's files are taken to be still
    witness = Path(f"/var/tmp/cvqd-witness-{os.getpid()}")
    assert machine.run(["sh", "-c", f"echo inside > {witness} && cat {witness}"]) == (0, "inside\n", "")
    assert not witness.exists()


def test_the_character_device_behaves_as_documented(machine):
    run_inside(machine, *INSIDE, "-m", "not guest")


def test_a_linux_guest_goes_through_the_daemon_to_the_kernels_device(machine):
    run_inside(machine, *INSIDE, "-m", "guest")


def test_qemus_network_card_is_served_where_its_control_queue_may_be_shared(card_machine):
    run_inside(card_machine, CARD)


# its daemon starts seven times; five minutes were measured beside other work on two processors
@pytest.mark.timeout(900)
def test_an_instance_lives_under_systemd(systemd_machine):
    machine, under = systemd_machine
    # chapters of one story, in their order
    story = ("-x", "-p", "no:randomly", "-o", "timeout=300", UNITS)
    run_inside(machine, *story, under=under, timeout=840)


def test_one_contract_holds_for_both_devices(machine):
    on_the_simulator = subprocess.run(
        [*PYTEST, "tests/contract"], check=False, cwd=CHECKOUT, capture_output=True, text=True
    )
    assert run_inside(machine, "tests/contract") == passed(on_the_simulator)
