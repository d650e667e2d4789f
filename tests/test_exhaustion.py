"""The system has no more: descriptors run out at every point of a session, a front-end reads no answer."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.wire.net_control import OK, MacAddrSet
from cvqd.wire.vhost_user import FrontRequest, encode_request
from kit.driven_guest import MAC_A, DrivenGuest
from kit.rig import Rig, jumping_clock, settled


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def allow(pid: int, limit: int) -> None:
    _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, most))


async def served(socket: str) -> bool:
    """Whether a guest gets an answer; False if its connection is ended."""
    acks: list[int] = []
    async with await FrontEnd.connect(socket) as front_end:
        guest = DrivenGuest(front_end, pairs=1)

        async def command(scope: trio.CancelScope) -> None:
            acks.append(await guest.set_mac(MAC_A))
            scope.cancel()

        try:
            with trio.fail_after(10):
                await guest.start()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(command, nursery.cancel_scope)
                    await front_end.hung_up()
                    nursery.cancel_scope.cancel()
        except FrontEndError:
            return False
        finally:
            guest.close()
    return acks == [OK]


async def visit(daemon: DaemonProcess) -> tuple[bool, set[str]]:
    """A guest comes and goes: whether it was served, and the events until it was gone."""
    mark = len(daemon.events)
    was_served = await served(daemon.socket)
    await daemon.event("frontend.disconnected", after=mark)
    return was_served, {event["event"] for event in daemon.events[mark:]}


@pytest.mark.bad_day(
    "descriptors run out",
    guest="its connection ends, or waits to be taken in; it is served when there are some again",
    log="frontend.failed, frontend.refused",
)
async def test_running_out_of_descriptors_ends_a_session_and_never_the_daemon(tmp_path: Path):
    config: dict[str, Any] = simulator_config(tmp_path, max_queue_pairs=1)
    async with DaemonProcess.start(tmp_path, config) as daemon:
        assert (await visit(daemon))[0]
        idle = descriptors(daemon.pid)
        told = set()
        for more in range(1, 60):
            allow(daemon.pid, idle + more)
            was_served, names = await visit(daemon)
            allow(daemon.pid, 1024)
            if was_served:
                break
            assert names & {"frontend.failed", "frontend.refused", "device.failed"}
            told |= names
            assert (await visit(daemon))[0]
        # every number below what a guest needs was tried, and none was lost on the way
        assert more > 10
        assert told >= {"frontend.failed", "frontend.refused"}
        assert descriptors(daemon.pid) <= idle + 1
        assert await daemon.stop() == 0


async def test_a_front_end_waits_while_it_cannot_be_taken_in(tmp_path: Path):
    async with DaemonProcess.start(tmp_path, simulator_config(tmp_path)) as daemon:
        allow(daemon.pid, 3)
        async with await FrontEnd.connect(daemon.socket) as front_end:
            failed = await daemon.event("frontend.failed")
            assert failed["reason"] == "accept: Too many open files"
            allow(daemon.pid, 1024)
            with trio.fail_after(10):
                assert await front_end.get_features()
        assert len(daemon.named("frontend.failed")) == 1
        assert await daemon.stop() == 0


async def test_who_asks_waits_too_and_that_is_told_once(tmp_path: Path):
    async with DaemonProcess.start(tmp_path, simulator_config(tmp_path)) as daemon:
        allow(daemon.pid, 3)
        async with await trio.open_unix_socket(daemon.control) as stream:
            await stream.send_all(b'{"request": "status"}\n')
            failed = await daemon.event("control.failed")
            assert failed["reason"] == "accept: Too many open files"
            # meanwhile the daemon looks again several times
            with trio.move_on_after(0.5):
                await stream.receive_some()
            allow(daemon.pid, 1024)
            with trio.fail_after(10):
                assert (await stream.receive_some()).startswith(b'{"schema":1')
        assert len(daemon.named("control.failed")) == 1
        assert await daemon.stop() == 0


async def until_hung_up_on(front_end: FrontEnd) -> None:
    """Ask and ask, and read no answer."""
    with suppress(FrontEndError):
        while True:
            await front_end.send_raw(encode_request(FrontRequest.GET_FEATURES))


@pytest.mark.bad_day(
    "a front-end does not read its answers",
    guest="commands are served until its connection ends, after ten seconds; the next one is served",
    log="frontend.refused",
)
@jumping_clock
async def test_a_front_end_that_does_not_read_is_left(tmp_path: Path):
    async with Rig.opened(tmp_path) as rig:
        async with rig.guest() as guest:
            await guest.start()
            begun = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until_hung_up_on, guest.front_end)
                await settled()
                assert await guest.command(MacAddrSet(MAC_A).encode()) == OK
                assert trio.current_time() == begun, "its front-end has just begun not to read"
        (refused,) = rig.log.of("frontend.refused")
        assert refused["reason"] == "the front-end has not read its answers for 10 s"
        assert trio.current_time() - begun < 11
        async with rig.guest() as another:
            await another.start()
            await another.set_mac()
