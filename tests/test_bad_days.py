"""Bad days of a device and its guest that no other file tells of; see ``bad_days``."""

from __future__ import annotations

import functools
import gc
import os
import sys
from contextlib import asynccontextmanager, suppress
from errno import EIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from cvqd.core.device import VdpaDevice
from cvqd.errors import DeviceError, UnavailableError
from cvqd.instance import device_events
from cvqd.simulator.spec import Fault, FaultAction, SimulatorSpec
from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.wire.net_control import ERR, OK, MacAddrSet
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.virtio import Feature, mask_of
from kit.rig import MAC_A, MAC_B, Rig, jumping_clock, open_descriptors, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

A, B = MacAddrSet(MAC_A).encode(), MacAddrSet(MAC_B).encode()
#: a command that no driver may send; cvqd answers it without asking the device
REFUSED = b"\x7f\x00"


@pytest.mark.bad_day(
    "the device's node disappears while the guest asks for more than the device takes",
    guest="everything it asked is answered, within half a second",
    log="device.removed, cvq.command.expired, cvq.command.refused",
)
@jumping_clock
async def test_whatever_a_guest_asked_of_a_device_that_goes_away_is_answered(tmp_path: Path) -> None:
    node = tmp_path / "vhost-vdpa-0"
    node.touch()
    async with Rig.opened(tmp_path, deadline=60) as rig, rig.guest() as guest:
        await guest.start()
        rig.device.path = str(node)  # type: ignore[misc]
        rig.device.faults.add(Fault("*", FaultAction.DROP, count=1000))
        slots = rig.owner._run.queue.slots  # type: ignore[union-attr]
        heads = [guest.driver.post_command(A) for _ in range(slots + 20)]
        guest.control.notify()
        await settled()
        begun = trio.current_time()
        with pytest.RaisesGroup(UnavailableError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(device_events._watch, rig.owner, rig.log)
                await settled()
                node.unlink()
        assert rig.log.of("device.removed") == [{"path": str(node)}]
        # as the service does next
        guest.front_end.close()
        while rig.backend.connected:  # noqa: ASYNC110 - a clock that jumps
            await trio.sleep(0.01)
        assert trio.current_time() - begun <= 0.52
        for head in heads:
            used = guest.control.poll()
            assert used is not None, "one was not answered"
            assert (used.head, guest.driver.take_ack(head)) == (head, ERR)
    assert len(rig.log.of("cvq.command.expired")) == slots
    assert [event["reason"] for event in rig.log.of("cvq.command.refused")] == ["device.removed"] * 20


class _Reluctant:
    """Lets a device refuse one call, the ``number``-th from now; writes down all names."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._names = [name for name, call in vars(VdpaDevice).items() if callable(call) and name != "aclose"]
        self.calls: list[str] = []
        self.number: int | None = None
        for name in self._names:
            if not name.startswith("__"):
                setattr(device, name, functools.partial(self._call, name, getattr(device, name)))

    async def _call(self, name: str, call: Any, *arguments: Any, **keywords: Any) -> Any:
        self.calls.append(name)
        if self.number == len(self.calls):
            raise DeviceError(name, EIO, "reluctant")
        return await call(*arguments, **keywords)

    def begin(self, number: int | None) -> None:
        self.calls.clear()
        self.number = number


@pytest.mark.bad_day(
    "the kernel refuses a call in the middle of a start or a stop",
    guest="no device: its front-end is told or hung up on; the next one is served in full",
    log="device.failed",
)
@pytest.mark.parametrize("order", ["uml", "qemu"])
@jumping_clock
async def test_any_call_that_fails_between_start_and_stop_ends_one_connection(
    tmp_path: Path, order: str
) -> None:
    async with Rig.opened(tmp_path) as rig:
        device = _Reluctant(rig.device)

        async def life() -> None:
            memory = GuestMemory(1 << 20)
            try:
                async with rig.guest(order, memory=memory, num=64) as guest:
                    await guest.start()
                    await guest.stop()
            finally:
                memory.close()

        await life()
        device.begin(None)
        await life()
        calls = list(device.calls)
        assert len(calls) > 40
        gc.collect()
        descriptors = open_descriptors()
        for number, name in enumerate(calls, 1):
            rig.log.events.clear()
            device.begin(number)
            with suppress(FrontEndError, AssertionError):
                await life()
            await trio.sleep(2)
            failed, *then = [event["call"] for event in rig.log.of("device.failed")]
            assert failed == name, number
            # a reset that was refused is looked for where the device says that it stands
            assert then in ([], ["VHOST_VDPA_SET_STATUS"] if name == "set_status" else []), number
            assert not rig.owner.running
            assert not len(rig.owner.memory.space), (number, name)
            assert not rig.owner.current.mappings.mapped(0), (number, name)
        # that the device was usable after each call is seen by how far the next start came
        gc.collect()
        assert open_descriptors() == descriptors
        device.begin(None)
        async with rig.guest(order) as guest:
            await guest.start()
            await guest.set_mac(MAC_B)


@pytest.mark.bad_day(
    "a front-end crashes and comes back a thousand times",
    guest="each time a device in its reset state, and nothing left of the time before",
    log="frontend.disconnected, state.reset",
)
@pytest.mark.timeout(180)
@jumping_clock
async def test_a_thousand_reconnects_leave_nothing(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, SimulatorSpec(max_queue_pairs=1)) as rig:
        descriptors = blocks = 0
        for turn in range(1000):
            with GuestMemory(1 << 19) as memory:
                # of all orders the one that waits least
                async with rig.guest("crosvm", memory=memory, num=16) as guest:
                    await guest.start()
                    assert await guest.command(A if turn % 3 else B) == OK
            assert not rig.backend.connected
            assert len(rig.log.of("frontend.disconnected")) == len(rig.log.of("state.reset")) == 1
            rig.log.events.clear()
            if turn == 200:
                del guest
                gc.collect()
                descriptors, blocks = open_descriptors(), sys.getallocatedblocks()
        del guest
        gc.collect()
        assert open_descriptors() == descriptors
        assert sys.getallocatedblocks() - blocks < 2000
        async with rig.guest() as last:
            await last.start()
            await last.set_mac(MAC_B)


@asynccontextmanager
async def _talkative(daemon: DaemonProcess) -> AsyncIterator[tuple[FrontEnd, NetDriver]]:
    """A guest that has started on a daemon in another process."""
    async with await FrontEnd.connect(daemon.socket) as front_end:
        left_out = mask_of(Feature.PROTOCOL_FEATURES, Feature.RSS, Feature.HASH_REPORT)
        features = await front_end.get_features() & ~left_out
        with GuestMemory() as memory, NetDriver(memory, 4, ring_format=RingFormat.of(features)) as driver:
            setup = driver.setup(features)
            await front_end.play(ORDERS["qemu"].connect(setup))
            await front_end.play(ORDERS["qemu"].start(setup))
            # DRIVER_OK has no answer of its own
            await front_end.get_features()
            yield front_end, driver


def _resident(pid: int) -> int:
    """Bytes, proc(5)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.bad_day(
    "a guest floods its control queue",
    guest="an answer to each command, in order; status and its front-end are answered meanwhile",
    log="log.limited",
)
async def test_a_flood_of_commands_slows_down_nobody_but_the_guest(tmp_path: Path) -> None:
    content = simulator_config(tmp_path)
    content["log"]["level"] = "info"
    async with DaemonProcess.start(tmp_path, content) as daemon, _talkative(daemon) as (front_end, driver):
        flooded = 0
        before = 0
        enough = trio.Event()

        async def flood() -> None:
            nonlocal flooded, before
            control = driver.control
            assert control is not None
            while not enough.is_set() or flooded < 10_000:
                heads = [driver.post_command(REFUSED if place % 8 else A) for place in range(32)]
                control.notify()
                for head in heads:
                    assert (await control.wait()).head == head
                    assert driver.take_ack(head) in (OK, ERR)
                flooded += len(heads)
                if flooded == 3200:
                    before = _resident(daemon.pid)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            for _ in range(10):
                with trio.fail_after(10):
                    assert (await daemon.status())["phase"] == "running"
                    await front_end.get_features()
            enough.set()
        assert await driver.command(B) == OK
        assert _resident(daemon.pid) - before < 4 << 20
        limited = await daemon.event("log.limited", of="cvq.command.refused")
        assert limited["lines"] > 0
        answers = (await daemon.status())["counters"]["answers"]
        assert sum(answers["unknown"].values()) + sum(answers["mac.addr_set"].values()) == flooded + 1
        assert len(daemon.named("cvq.command.refused")) < flooded / 2
        assert await daemon.stop() == 0
