"""The devices that these tests own, one after the other, and the daemon's parts upon one."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import trio

from cvqd import cli
from cvqd.core.limits import Limits
from cvqd.frontend.backend import Backend
from cvqd.host import unix_listener
from cvqd.host.listener import Listener
from cvqd.host.vdpa import CharDevice
from cvqd.service import take
from cvqd.telemetry.journal import Journal
from cvqd.testing.driver import GuestMemory
from cvqd.testing.events import EventRecorder
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.wire.virtio import Feature


@pytest.fixture(scope="session")
def node():
    return os.environ["CVQD_CONTRACT_DEVICE"]


@pytest.fixture
async def device(node):
    device = await CharDevice.open(node)
    yield device
    await device.aclose()


class Result(NamedTuple):
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def cvqd(capfd):
    """The command, in this process: an emulated processor takes seconds to start another."""

    def run(*words):
        code = cli.main([str(word) for word in words])
        return Result(code, *capfd.readouterr())

    return run


class Instance:
    """The daemon in this process, on a node; ``guest`` is a front-end with a driver behind it."""

    def __init__(self, device, owner, log, socket):
        self.device = device
        self.owner = owner
        self.log = log
        self.socket = socket
        self.backend = None

    async def serve(self, listener):
        while (connection := await listener.accept()) is not None:
            async with connection:
                await self.backend.serve(connection)

    @asynccontextmanager
    async def guest(self, features=None, size=8 << 20):
        """A guest whose driver runs; ``features`` are those it takes, all that are offered if None."""
        offered = self.owner.current.offer.features & ~Feature.PROTOCOL_FEATURES.mask
        taken = offered if features is None else features & offered
        pairs = self.owner.current.offer.max_pairs if taken & Feature.MQ.mask else 1
        memory = GuestMemory(size)
        order = ORDERS["qemu"]
        async with await FrontEnd.connect(self.socket) as front_end:
            control = bool(taken & Feature.CTRL_VQ.mask)
            with NetDriver(memory, pairs, 64, control=control) as driver:
                driver.front_end = front_end
                await front_end.play(order.connect(driver.setup(taken)))
                await front_end.play(order.start(driver.setup(taken)))
                await front_end.get_features()
                assert self.owner.running, self.log.events[-5:]
                yield driver
                await front_end.play(order.stop(driver.setup(taken)))
                await front_end.get_features()
        memory.close()


@pytest.fixture
def instance(tmp_path):
    @asynccontextmanager
    async def opened(node, *, require_isolation=True, mac=None, kind=CharDevice):
        log = EventRecorder()
        limits = Limits(require_isolation, 1.0, 64 << 10, mac)
        device = await kind.open(node)
        try:
            async with trio.open_nursery() as nursery:
                owner = await take(device, limits, log, Journal(log))
                instance = Instance(device, owner, log, str(tmp_path / "vm0.sock"))
                instance.backend = Backend(owner, log, nursery)
                with unix_listener.bind(instance.socket, 0o600) as bound:
                    nursery.start_soon(instance.serve, Listener(bound))
                    yield instance
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await device.aclose()

    return opened
