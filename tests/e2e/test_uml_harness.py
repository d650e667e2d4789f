from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cvqd.testing import uml_kernel
from cvqd.testing.uml import UmlCommandFailed, UmlError, UmlGuest, UmlTimeout

pytestmark = pytest.mark.guest


def members(group: int) -> list[int]:
    """A pidfd of every process of a group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            if os.getpgid(int(entry.name)) == group:
                found.append(os.pidfd_open(int(entry.name)))
    return found


async def all_ended(pidfds: list[int]) -> None:
    assert pidfds
    for pidfd in pidfds:
        try:
            await until_ended(pidfd, 5)
        finally:
            os.close(pidfd)


async def until_ended(pidfd: int, seconds: float) -> None:
    with trio.fail_after(seconds):
        await trio.lowlevel.wait_readable(pidfd)


async def test_commands_give_their_exit_code_and_their_output_unchanged() -> None:
    async with UmlGuest.boot() as guest:
        assert await guest.run("echo out; echo err >&2; exit 3") == (3, b"out\nerr\n")
        assert await guest.run("true") == (0, b"")
        assert await guest.run("printf 'no newline'") == (0, b"no newline")
        assert (await guest.run("cat <<'.'\n  a 'quoted' \\ \"line\"\n.\nfalse")) == (
            1,
            b"  a 'quoted' \\ \"line\"\n",
        )
        assert (await guest.run("no-such-command")).status == 127
        assert await guest.check("echo '  text  '") == "text"
        with pytest.raises(UmlCommandFailed, match=r"false: exit code 1"):
            await guest.check("false")

        # All bytes, more than any buffer on the way.
        await guest.check("head -c 700001 /dev/urandom >/tmp/noise")
        digest = await guest.check("sha256sum </tmp/noise | cut -c 1-64")
        noise = await guest.run("cat /tmp/noise")
        assert len(noise.output) == 700001
        assert hashlib.sha256(noise.output).hexdigest() == digest
        assert len(set(noise.output)) == 256


async def test_the_guest_sees_the_host_read_only_and_has_its_own_tmp_and_run(tmp_path: Path) -> None:
    letter = tmp_path / "letter"
    letter.write_text("from the host")
    async with UmlGuest.boot() as guest:
        assert await guest.check(f"cat {guest.path(letter)}") == "from the host"
        assert (await guest.run(f"echo changed >{guest.path(letter)}")).status != 0
        assert await guest.check("ls /tmp") == ""
        await guest.check("echo mine >/tmp/letter; echo mine >/run/letter")
        assert await guest.check("stat -f -c %T /tmp /run") == "tmpfs\ntmpfs"
        assert await guest.check(f"{guest.python()} -c 'print(6 * 7)'") == "42"
        assert guest.release
        assert await guest.check("cat /proc/sys/kernel/osrelease") == guest.release
        assert "ip utility" in await guest.check("ip -V")
        assert await guest.check("ls /sys/class/net") == "lo"
    assert letter.read_text() == "from the host"


async def test_modules_come_with_what_they_depend_on() -> None:
    async with UmlGuest.boot() as guest:
        assert await guest.check("cat /proc/modules") == ""
        await guest.load("virtio_net", "8021q")
        await guest.load("virtio_net")
        loaded = {line.split()[0] for line in (await guest.check("cat /proc/modules")).splitlines()}
        assert {"virtio_net", "net_failover", "failover", "8021q", "garp", "mrp", "stp", "llc"} == loaded
        await guest.unload("virtio_net")
        assert (await guest.run("[ -d /sys/module/virtio_net ]")).status == 1
        with pytest.raises(UmlError, match="no module flux_capacitor"):
            await guest.load("flux_capacitor")
        with pytest.raises(UmlCommandFailed):
            await guest.unload("virtio_net")


async def test_a_command_that_hangs_ends_the_conversation_and_leaves_no_process() -> None:
    async with UmlGuest.boot() as guest:
        directory = Path(guest._console).parent
        with pytest.raises(UmlTimeout, match=r"within 0.2 s to: cat /dev/zero") as caught:
            await guest.run("cat /dev/zero >/dev/null", deadline=0.2)
        assert "--- guest console ---" in str(caught.value)
        with pytest.raises(UmlError, match="cannot run: true"):
            await guest.run("true")
        processes = members(guest.pid)
    await all_ended(processes)
    assert not directory.exists()


async def test_powering_off_gives_the_chosen_exit_code() -> None:
    async with UmlGuest.boot() as guest:
        assert await guest.power_off(42) == 42
        assert await guest.wait() == 42
        with pytest.raises(UmlError, match="powered off"):
            await guest.run("true")


async def test_a_panic_is_reported_with_the_console() -> None:
    async with UmlGuest.boot() as guest:
        with pytest.raises(UmlError, match="sysrq triggered crash"):
            await guest.run("echo c >/proc/sysrq-trigger")
        with trio.fail_after(10):
            assert await guest.wait() == -signal.SIGABRT


async def test_an_exception_passes_through_unwrapped_and_the_guest_dies_with_it() -> None:
    processes = []
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with UmlGuest.boot() as guest:
            processes = members(guest.pid)
            raise ZeroDivisionError
    await all_ended(processes)


async def test_cancelling_kills_the_guest_at_once() -> None:
    processes = []
    with trio.CancelScope() as scope:
        async with UmlGuest.boot() as guest:
            processes = members(guest.pid)
            scope.cancel()
            await guest.run("sleep 1000", deadline=1000)
    assert scope.cancelled_caught
    await all_ended(processes)


async def test_a_guest_that_does_not_boot_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uml_kernel, "_INIT", tmp_path / "absent")
    with pytest.raises(UmlError, match="guest console"):
        async with UmlGuest.boot():
            pass


async def test_the_guest_powers_itself_off_when_its_host_process_is_killed(tmp_path: Path) -> None:
    script = """
import sys, trio
from cvqd.testing.uml import UmlGuest

async def main():
    async with UmlGuest.boot() as guest:
        print(guest.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""
    # a killed process cannot remove its guest's directory, so it is made where the test's files are
    host = await trio.lowlevel.open_process(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        assert host.stdout is not None
        with trio.fail_after(30):
            guest = os.pidfd_open(int(await host.stdout.receive_some()))
    finally:
        host.kill()
        await host.wait()
    try:
        await until_ended(guest, 10)
    finally:
        os.close(guest)


async def test_a_socket_that_nobody_listens_on_is_no_network_card(tmp_path: Path) -> None:
    async with UmlGuest.boot([tmp_path / "nobody.sock"]) as guest:
        await guest.load("virtio_net")
        assert await guest.check("ls /sys/class/net") == "lo"


@pytest.mark.parametrize("name", ["a:b", "a b"])
async def test_a_socket_path_that_the_kernel_command_line_cannot_carry_is_refused(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(UmlError, match="cannot carry"):
        async with UmlGuest.boot([tmp_path / name]):
            pass
