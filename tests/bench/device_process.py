"""A process with the embedded simulator in it, for a guest that uses it directly or through the bare relay.

    python device_process.py direct|relay DESCRIPTION [NODE]

The simulator is hosted as the daemon hosts it: one thread, trio, kicks awaited
through its epoll descriptor.  Says ``ready`` on standard output when the guest
may kick, and ends when standard input does.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

import trio
from bare_relay import BareRelay
from shared_guest import SharedGuest

from cvqd.host.vdpa import CharDevice
from cvqd.simulator.device import SimulatedDevice
from cvqd.simulator.spec import SimulatorSpec, default_features
from cvqd.testing.device_driver import DeviceDriver
from cvqd.wire.vhost_vdpa import Access, Map
from cvqd.wire.virtio import Feature

if TYPE_CHECKING:
    from cvqd.core.device import VdpaDevice

#: as in ``testing.daemon.simulator_config``
PAIRS = 4


class NoLog:
    """Satisfies ``events.EventLog``."""

    def emit(self, name: str, /, *, mono_ns: int | None = None, **fields: object) -> None:
        """Forget it."""

    def enabled(self, _name: str, /) -> bool:
        """Never."""
        return False


async def direct(device: VdpaDevice, guest: SharedGuest) -> None:
    """Give the device the guest's own control ring."""
    packed = Feature.RING_PACKED.mask if guest.format.packed else 0
    driver = DeviceDriver(device, max_pairs=PAIRS, rings=packed)
    await driver.negotiate(2**64 - 1)
    await device.iotlb(0, [Map(guest.start, len(guest.region), guest.region, 0, Access.READ_WRITE)])
    await device.set_vring_num(guest.index, guest.num)
    await device.set_vring_addr(guest.index, guest.addresses)
    await device.set_vring_base(guest.index, guest.format.initial_base)
    await device.set_vring_call(guest.index, guest.call)
    await device.set_vring_kick(guest.index, guest.kick)
    await driver.enable()
    await device.set_vring_enable(guest.index, enable=True)


async def open_device(nursery: trio.Nursery, node: str | None) -> VdpaDevice:
    """The kernel's device, or the simulator."""
    if node is not None:
        return await CharDevice.open(node)
    features = default_features(PAIRS) | Feature.RING_PACKED.mask
    return await SimulatedDevice.open(
        SimulatorSpec(max_queue_pairs=PAIRS, features=features), NoLog(), nursery
    )


async def serve(how: str, description: str, node: str | None = None) -> None:
    """Until standard input ends."""
    guest = SharedGuest(description)
    async with trio.open_nursery() as nursery:
        device = await open_device(nursery, node)
        if how == "direct":
            await direct(device, guest)
        else:
            driver = DeviceDriver(device, max_pairs=PAIRS, num=128)
            await driver.start()
            nursery.start_soon(BareRelay(guest, driver).run)
        gc.collect()
        gc.freeze()
        print("ready", flush=True)  # noqa: T201 - the parent waits for it
        await trio.lowlevel.wait_readable(0)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve, *sys.argv[1:])
