"""One instance of the daemon inside a test: simulator, owner, back-end, listener, as the service joins them.

``Rig`` is the daemon's side, ``Guest`` a front-end with a driver behind it.
All descriptors are in this process, so ``settled`` knows when nothing is left
to do, and a mock clock may jump.
"""

from __future__ import annotations

import copy
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import trio
import trio.testing

from cvqd.config.device import OWN_DEVICE
from cvqd.core.limits import Limits
from cvqd.core.site_policy import EVERYTHING
from cvqd.frontend.backend import Backend
from cvqd.host import unix_listener
from cvqd.host.listener import Listener
from cvqd.instance.device_events import follow_config
from cvqd.instance.instance import Instance
from cvqd.instance.rehearsals import Rehearsals
from cvqd.owner.devices import Devices
from cvqd.service import next_frontend, take
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import SimulatorSpec
from cvqd.telemetry.journal import Journal
from cvqd.testing.driver import GuestMemory
from cvqd.testing.events import EventRecorder
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.wire.net_control import MacAddrSet
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.vhost_user import DescriptorKind
from cvqd.wire.virtio import Feature, mask_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from cvqd.config.device import DeviceConfig
    from cvqd.core.site_policy import SitePolicy
    from cvqd.core.state_keeper import StateKeeper
    from cvqd.owner.owner import Owner
    from cvqd.testing.steps import GuestSetup

MAC_A = bytes.fromhex("525400aa0001")
MAC_B = bytes.fromhex("525400bb0002")
BROADCAST = b"\xff" * 6
#: seconds that no test's story takes on the wall clock; a mock clock needs some place to jump to
_PATIENCE, _MOCK_PATIENCE = 20.0, 1000.0
#: control features, which QEMU keeps to itself: it serves the control queue of its network device
CONTROL_FEATURES = mask_of(
    Feature.CTRL_VQ,
    Feature.CTRL_RX,
    Feature.CTRL_RX_EXTRA,
    Feature.CTRL_VLAN,
    Feature.CTRL_MAC_ADDR,
    Feature.CTRL_GUEST_OFFLOADS,
    Feature.NOTF_COAL,
    Feature.VQ_NOTF_COAL,
    Feature.DEVICE_STATS,
)

#: orders of front-ends that keep their guest's control queue
KEEPERS = frozenset({"qemu-net", "cloud-hypervisor"})
#: of them, what the last one keeps to itself; it passes CTRL_VQ, MQ and GUEST_ANNOUNCE on
_NOT_CLOUD_HYPERVISOR = CONTROL_FEATURES & ~Feature.CTRL_VQ.mask


def open_descriptors() -> int:
    """Descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def frame(destination: bytes, payload: bytes = b"payload", vlan: int | None = None) -> bytes:
    """An Ethernet frame of at least 60 bytes."""
    tag = b"" if vlan is None else b"\x81\x00" + vlan.to_bytes(2, "big")
    return (destination + bytes.fromhex("525400ee0001") + tag + b"\x88\xb5" + payload).ljust(60, b"\0")


async def settled() -> None:
    """Wait until nobody has anything to do."""
    await trio.testing.wait_all_tasks_blocked()


def _run_jumping(main: Callable[..., Any], **options: Any) -> Any:
    options["clock"] = trio.testing.MockClock(autojump_threshold=0)
    return trio.run(main, **options)


#: decorator of tests on a clock that jumps to the next deadline when nobody has anything to do
jumping_clock = pytest.mark.trio(run=_run_jumping)


class Rig:
    """Made by ``opened``; the parts are public."""

    def __init__(self, log: EventRecorder, owner: Owner, socket: str) -> None:
        self.log = log
        self.owner = owner
        self.socket = socket
        self.journal = owner.journal
        self.backend: Backend
        self.rehearsals: Rehearsals
        self.ended = trio.Event()
        self._tasks: trio.CancelScope

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        directory: Path,
        spec: DeviceConfig | None = None,
        *,
        log: EventRecorder | None = None,
        require_isolation: bool = True,
        deadline: float = 1.0,
        offers_inband: bool = False,
        max_command: int = 64 << 10,
        mac: bytes | None = None,
        site: SitePolicy = EVERYTHING,
        targets: Mapping[str, DeviceConfig] | None = None,
        patience: float = _PATIENCE,
        kept: StateKeeper | None = None,
    ) -> AsyncIterator[Rig]:
        """A running instance; everything in it ends, in the service's order, when the block does."""
        log = log or EventRecorder()
        limits = Limits(require_isolation, deadline, max_command, mac, site)
        path = str(directory / "vm0.sock")
        jumps = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
        with trio.fail_after(_MOCK_PATIENCE if jumps else patience):
            configs = {OWN_DEVICE: spec or SimulatorSpec(max_queue_pairs=2), **(targets or {})}
            async with Devices.opened(configs, log) as devices, trio.open_nursery() as nursery:
                owner = await take(await devices.open(OWN_DEVICE), limits, log, Journal(log), kept)
                rig = cls(log, owner, path)
                rig._tasks = nursery.cancel_scope
                rig.backend = Backend(owner, log, nursery, offers_inband=offers_inband)
                rig.rehearsals = Rehearsals(owner, rig.backend, devices, log, nursery)
                with unix_listener.bind(path, 0o600) as bound:
                    nursery.start_soon(follow_config, owner, rig.backend)
                    nursery.start_soon(rig._serve, Listener(bound))
                    yield rig
                    nursery.cancel_scope.cancel()

    def ends(self) -> None:
        """Have the service end, as a signal would; ``ended`` is set when its front-end is gone."""
        self._tasks.cancel()

    async def _serve(self, listener: Listener) -> None:
        try:
            while (connection := await next_frontend(listener, self.log)) is not None:
                async with connection:
                    await self.backend.serve(connection)
        finally:
            self.ended.set()

    @property
    def device(self) -> SimulatedDevice:
        """The device that the guest is on."""
        device = self.owner.current.device
        assert isinstance(device, SimulatedDevice)
        return device

    @property
    def features(self) -> int:
        """All that is offered, without vhost-user's bit 30, and what tests ask for by name.

        HASH_REPORT makes the packet header longer, RSS gives a driver without MQ as many rings.
        """
        named = mask_of(Feature.PROTOCOL_FEATURES, Feature.HASH_REPORT, Feature.RSS)
        return self.owner.current.offer.features & ~named

    @property
    def instance(self) -> Instance:
        """As the control socket's clients see it."""
        return Instance("vm0", self.owner, self.backend, self.journal, self.log)

    @property
    def status(self) -> dict[str, Any]:
        """What ``cvqd status --json`` shows."""
        return dict(self.instance.status())

    @property
    def counters(self) -> dict[str, int]:
        """Refusals by reason, and rare things by name."""
        found = self.status["counters"]
        return {**found["refusals"], **found["other"]}

    async def connect(self) -> FrontEnd:
        """A front-end that has said nothing yet."""
        return await FrontEnd.connect(self.socket)

    @asynccontextmanager
    async def guest(self, order: str = "qemu", **shape: Any) -> AsyncIterator[Guest]:
        """A front-end that has connected, with a guest behind it that has not started; see ``Guest``."""
        async with await self.connect() as front_end:
            with Guest(self, front_end, order, **shape) as guest:
                await guest.front_end.play(guest.order.connect(guest.setup))
                yield guest
        await settled()


class Guest:
    """Memory and rings of one virtual machine; ``order`` names whose front-end it has."""

    def __init__(
        self,
        rig: Rig,
        front_end: FrontEnd,
        order: str = "qemu",
        *,
        features: int | None = None,
        num: int = 256,
        memory: GuestMemory | None = None,
        call_kind: DescriptorKind = DescriptorKind.EVENTFD,
    ) -> None:
        self.rig = rig
        self.front_end = front_end
        self.order = ORDERS[order]
        held = {"qemu-net": CONTROL_FEATURES, "cloud-hypervisor": _NOT_CLOUD_HYPERVISOR}.get(order, 0)
        own = rig.features & ~held
        # tests reach into split rings; those of packed ones say so
        self.features = own & ~Feature.RING_PACKED.mask if features is None else features
        self.memory = memory or GuestMemory()
        pairs = rig.owner.current.offer.max_pairs if self.features & mask_of(Feature.MQ, Feature.RSS) else 1
        ring_format = RingFormat.of(self.features)
        self.driver = NetDriver(self.memory, pairs, num, call_kind=call_kind, ring_format=ring_format)
        assert self.driver.control is not None
        self.control = self.driver.control
        if order == "libkrun":
            # one call descriptor for all rings
            for queue in self.driver.queues[1:]:
                os.close(queue.call)
                queue.call = queue._call_end = os.dup(self.driver.queues[0].call)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.close()
        self.memory.close()

    @asynccontextmanager
    async def behind(self, rig: Rig) -> AsyncIterator[Guest]:
        """The same virtual machine with another connection, to the same daemon or its successor."""
        async with await rig.connect() as front_end:
            guest = copy.copy(self)
            guest.rig, guest.front_end = rig, front_end
            await front_end.play(guest.order.connect(guest.setup))
            yield guest
        await settled()

    @property
    def setup(self) -> GuestSetup:
        """As it is now: bases move."""
        return self.driver.setup(self.features)

    async def start(self) -> None:
        """As when the guest's driver is loaded; the device runs afterwards."""
        await self.front_end.play(self.order.start(self.setup))
        # crosvm and libkrun wait for no answer: this one comes behind all they said
        await self.front_end.get_features()
        assert self.rig.owner.running, self.rig.log.events[-5:]

    async def stop(self) -> None:
        """As when it is unloaded."""
        await self.front_end.play(self.order.stop(self.setup))
        await self.front_end.get_features()
        assert not self.rig.owner.running, self.rig.log.events[-5:]

    async def command(self, command: bytes) -> int:
        """Ack byte of a control command."""
        return await self.driver.command(command)

    async def set_mac(self, mac: bytes = MAC_A) -> None:
        """Set the address and see that device, tracked state and configuration have it."""
        assert await self.command(MacAddrSet(mac).encode()) == 0
        await settled()
        assert self.rig.device.net.control.state.mac == mac
        assert self.rig.owner.state.mac == mac
        assert (await self.front_end.get_config(0, 6)) == mac

    async def echo(self, sent: bytes, pair: int = 0) -> bool:
        """Whether the loopback lets a frame back in."""
        self.driver.send_frame(sent, pair)
        await settled()
        return sent in self.driver.received_frames(pair)
