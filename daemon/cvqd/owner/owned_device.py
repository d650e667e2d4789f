"""One open device of ours: what it reports about itself, and what it was given.

Everything here concerns this device only.  ``Owner`` has the one that its guest
runs on; a switchover prepares the next beside it.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from cvqd.config.device import OWN_DEVICE
from cvqd.core import features, lifecycle
from cvqd.core.isolation import Isolation, Verdict
from cvqd.core.mappings import Mappings
from cvqd.errors import IsolationError
from cvqd.owner.shadow_memory import ShadowMemory
from cvqd.wire import net_config
from cvqd.wire.net_config import LinkStatus
from cvqd.wire.vhost_vdpa import backend_names
from cvqd.wire.virtio import Feature, feature_names, mask_of

if TYPE_CHECKING:
    from cvqd.core.device import VdpaDevice
    from cvqd.core.lifecycle import DeviceFacts
    from cvqd.core.limits import Limits
    from cvqd.errors import DeviceError
    from cvqd.events import EventLog


def tell_failed(log: EventLog, error: DeviceError) -> None:
    """Say in the log which call a device or the kernel refused."""
    log.emit("device.failed", call=error.call, errno=error.errno, reason=error.reason)


class OwnedDevice:
    """Made by ``take``; ``name`` is the configuration's.  ``config`` is as it was last read."""

    def __init__(
        self, device: VdpaDevice, facts: DeviceFacts, limits: Limits, log: EventLog, name: str = OWN_DEVICE
    ) -> None:
        self.device = device
        self.name: Final = name
        self.facts = facts
        self.offer = features.offer(
            facts.features, facts.max_pairs, facts.vqs, limits.site.pairs, suspends=facts.suspends
        )
        self.config = facts.config
        self.isolation = Isolation(Verdict.NONE, (), "not judged yet")
        self.mappings = Mappings(device, facts.backend_used)
        self.shadow = ShadowMemory(facts, limits.max_command)
        self._require_isolation = limits.require_isolation
        self._log = log

    @classmethod
    async def take(
        cls, device: VdpaDevice, limits: Limits, log: EventLog, name: str = OWN_DEVICE
    ) -> OwnedDevice:
        """Reset, inspect and judge a device that was just opened; DeviceError, IsolationError."""
        facts = await lifecycle.inspect(device)
        owned = cls(device, facts, limits, log, name)
        log.emit(
            "device.opened",
            kind=device.kind,
            path=device.path,
            features=feature_names(facts.features),
            masked=[f"{entry.name}: {entry.reason}" for entry in owned.offer.masked],
            backend=backend_names(facts.backend_features),
        )
        # which group a ring is in may depend on the features: mlx5_vdpa, without MQ, says that its control
        # queue is ring 2 (``is_ctrl_vq_idx``, drivers/vdpa/mlx5/net/mlx5_vnet.c)
        await lifecycle.negotiate(device, owned.offer.device_word(owned.offer.features, facts.features))
        await owned.judge()
        await device.set_status(0)
        return owned

    @property
    def sets_mac(self) -> bool:
        """Whether the device lets its address be set."""
        return bool(self.offer.features & Feature.CTRL_MAC_ADDR.mask)

    @property
    def announces(self) -> bool:
        """Whether the device itself asks its driver to announce itself."""
        if self.offer.emulated & mask_of(Feature.STATUS, Feature.GUEST_ANNOUNCE):
            return False
        return bool(net_config.decode(self.config).status & LinkStatus.ANNOUNCE)

    def word(self, guest_features: int, limits: Limits) -> int:
        """Features to acknowledge on the device: the guest's, and those that our own commands need."""
        word = self.offer.device_word(guest_features, self.facts.features)
        word |= limits.site.features & self.offer.features
        return word | Feature.CTRL_MAC_ADDR.mask if limits.mac and self.sets_mac else word

    async def judge(self) -> None:
        """Judge isolation; IsolationError if the policy requires it and the device cannot provide it."""
        has_cvq = bool(self.offer.features & Feature.CTRL_VQ.mask)
        index = self.offer.device_cvq_index if has_cvq else None
        before = self.isolation
        self.isolation = found = await lifecycle.judge_isolation(self.device, self.facts, index)
        if found == before:
            return
        self._log.emit(
            "isolation.verdict",
            verdict=found.verdict.value,
            reason=found.reason,
            queues=[f"{queue.index}: group {queue.group}, ASID {queue.asid}" for queue in found.queues],
        )
        if found.cvq is None or found.verdict is not Verdict.SHARED:
            return
        if self._require_isolation:
            self._log.emit("isolation.refused", queue=found.cvq.index, reason=found.reason)
            raise IsolationError(f"control queue {found.cvq.index}: {found.reason}")
        self._log.emit("isolation.shared", queue=found.cvq.index, reason=found.reason)

    async def negotiate(self, word: int) -> None:
        """Try a feature word on the device and judge again; DeviceError if the device refuses it."""
        await lifecycle.negotiate(self.device, word)
        await self.mappings.restore()
        await self.judge()

    async def place_shadow(self) -> None:
        """Let the device see the shadow queue's memory, if it has a control queue."""
        if self.isolation.cvq is not None:
            await self.shadow.place(self.mappings, self.isolation.asid)

    async def read_config(self) -> bytes:
        """The configuration space as it is now."""
        self.config = await self.device.get_config(0, len(self.facts.config))
        return self.config

    async def suspend(self) -> None:
        """Stop all rings and keep their state."""
        begun = monotonic_ns()
        await self.device.suspend()
        self._log.emit("device.suspended", path=self.device.path, elapsed_us=(monotonic_ns() - begun) // 1000)

    async def resume(self) -> None:
        """Undo ``suspend``."""
        begun = monotonic_ns()
        await self.device.resume()
        self._log.emit("device.resumed", path=self.device.path, elapsed_us=(monotonic_ns() - begun) // 1000)
