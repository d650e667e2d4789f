"""The data flow of a move: a running guest goes from one device to another on this host.

    prepare   open the target, check that it can take over; map memory, place the shadow queue
    suspend   answer the guest's pending commands, then stop every ring of the source
    indices   read where each ring stands; unbind the guest's descriptors from the source
    replay    start the target there with only its control queue enabled, replay the state
    start     enable the data queues, ring every doorbell; the target is the guest's device

The guest notices nothing before ``suspend``.  From then on a failure takes it
back to the source, which is resumed, or started again where its rings stand.
Once every queue of the target runs there is nothing left that could fail.

A dry move suspends the source, takes a snapshot, checks that the target could
load it, and resumes the source.
"""

from __future__ import annotations

from dataclasses import replace
from errno import EIO
from time import monotonic_ns
from typing import TYPE_CHECKING

import trio

from cvqd.core import lifecycle
from cvqd.core.compatibility import usable
from cvqd.core.restore import replay, replay_running
from cvqd.core.tracked import TrackedState
from cvqd.errors import CompatibilityError, CvqdError, DeviceError, RequestError
from cvqd.owner.launch import Launch
from cvqd.owner.owned_device import tell_failed
from cvqd.owner.snapshots import taken
from cvqd.telemetry.move import PREPARE
from cvqd.wire import net_config, snapshot
from cvqd.wire.net_config import format_mac
from cvqd.wire.virtio import Feature, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cvqd.core.limits import Limits
    from cvqd.events import EventLog
    from cvqd.owner.devices import Devices
    from cvqd.owner.owned_device import OwnedDevice
    from cvqd.owner.owner import Owner
    from cvqd.owner.run import Run
    from cvqd.telemetry.move import Move
    from cvqd.wire.snapshot import Snapshot


class Migration:
    """Moves the guest of one owner; no other method of the owner may be called meanwhile."""

    def __init__(self, owner: Owner, devices: Devices, log: EventLog, nursery: trio.Nursery) -> None:
        self._owner = owner
        self._log = log
        self._devices = devices
        self._launch = Launch(owner, log, nursery)
        #: where the relay of a run lives
        self._nursery = nursery

    async def switch(self, move: Move) -> None:
        """Move the guest to ``move.target``; ``move`` records the outcome."""
        owner, source = self._owner, self._owner.current
        target: OwnedDevice | None = None
        try:
            with move.phase(PREPARE):
                run = self._movable()
                target = await self._devices.take(move.target, self._limits())
                await self._prepare(run, target)
            # a move must not be cancelled halfway
            with trio.CancelScope(shield=True):
                begun = await self._hand_over(run, target, move)
            self._devices.moved(target)
            self._launch.tell_started(begun)
        except (CvqdError, OSError) as error:
            move.failed(error, "source" if owner.running else "neither")
        else:
            move.finished()
        finally:
            left = target if owner.current is source else source
            if left is not None:
                await self._devices.close(left.device)

    async def try_dry(self, move: Move) -> None:
        """Check whether ``move.target`` could take over; ``move`` records the outcome."""
        target: OwnedDevice | None = None
        try:
            run = self._movable()
            target = await self._devices.take(move.target, self._limits())
            with trio.CancelScope(shield=True):
                await self._compare(run, target, move)
        except (CvqdError, OSError) as error:
            move.failed(error, "source" if self._owner.running else "neither")
        else:
            move.finished()
        finally:
            if target is not None:
                await self._devices.close(target.device)

    # before the guest notices

    def _movable(self) -> Run:
        """What runs now; CvqdError where it cannot be moved."""
        run = self._owner.run
        if run is None:
            raise RequestError("no guest's driver is running")
        self._require_certainty()
        _require_indices(run.device)
        return run

    def _require_certainty(self) -> None:
        if self._owner.life.ledger.uncertain:
            raise RequestError("the device owes the answer to a command: its state is uncertain")

    def _limits(self) -> Limits:
        """Limits of a target: the owner's, with as many queue pairs as the guest was offered."""
        limits = self._owner.life.limits
        site = replace(limits.site, pairs=self._owner.current.offer.max_pairs)
        return replace(limits, site=site)

    async def _prepare(self, run: Run, target: OwnedDevice) -> None:
        """Prepare the target as far as possible while the source still runs."""
        owner = self._owner
        _require_indices(target)
        usable(self._snapshot(run, {}), target.offer, target.facts)
        await target.negotiate(target.word(owner.features, owner.life.limits))
        await owner.memory.show(target)
        await target.place_shadow()

    # the guest waits

    async def _hand_over(self, run: Run, target: OwnedDevice, move: Move) -> int:
        """Returns when the target's start began, in monotonic ns."""
        owner, source = self._owner, run.device.device
        widened = owner.state.widened
        successor: Run | None = None
        enabling = False
        try:
            await self._suspend(run, move)
            with move.phase("indices"):
                bases = move.bases = run.bases(
                    await lifecycle.take_bases(source, run.plan), owner.memory.space
                )
                await lifecycle.unbind(source, run.plan)
            begun = monotonic_ns()
            with move.phase("replay"):
                successor = await self._launch.plan(target, *run.rings_at(bases))
                await self._launch.bring_up(successor, owner.state.pairs)
                await _agrees(successor, owner.state)
            with move.phase("start"):
                enabling = True
                await self._launch.enable(successor)
                move.serves()
                self._launch.relay(successor)
        except BaseException as error:
            before = move.bases
            if successor is not None:
                await self._withdraw(successor, move, enabling=enabling)
            await self._go_back(run, move, error, resumable=move.bases == before)
            if owner.run is run:
                owner.life.stayed(widened=widened)
            raise
        run.close()
        # off the critical path: the guest runs again
        move.commands, move.digest_after = _told(successor, owner.state)
        return begun

    async def _compare(self, run: Run, target: OwnedDevice, move: Move) -> None:
        try:
            await self._suspend(run, move)
            with move.phase("snapshot"):
                bases = await lifecycle.take_bases(run.device.device, run.plan)
                bases = move.bases = run.bases(bases, self._owner.memory.space)
                data = snapshot.encode(self._snapshot(run, bases))
            with move.phase("compare"):
                _require_indices(target)
                move.digest_after = usable(snapshot.decode(data), target.offer, target.facts).digest()
        except BaseException as error:
            await self._go_back(run, move, error)
            raise
        with move.phase("resume"):
            await self._go_back(run, move)

    async def _suspend(self, run: Run, move: Move) -> None:
        with move.phase("suspend"):
            await run.end(self._owner.patience)
            self._require_certainty()
            move.stops_serving(self._owner.state.digest())
            await run.device.suspend()

    # and back

    async def _withdraw(self, run: Run, move: Move, *, enabling: bool) -> None:
        """Reset a target that failed; note where its rings stand if they may have moved."""
        moved = enabling or (not run.device.facts.enables_late and await self._may_run(run))
        told = None
        try:
            told = await run.stop_device()
        except DeviceError as error:
            tell_failed(self._log, error)
        if moved:
            self._note_bases(run, told, move)

    async def _may_run(self, run: Run) -> bool:
        """Whether a device whose rings were enabled before its start has started; True if it cannot say."""
        try:
            return bool(await run.device.device.get_status() & Status.DRIVER_OK)
        except DeviceError as error:
            tell_failed(self._log, error)
            return True

    def _note_bases(self, run: Run, told: Mapping[int, int] | None, move: Move) -> None:
        """Note where the rings of a device that was halted stand; ``told`` is what it says of them."""
        move.bases = None
        try:
            move.bases = run.bases(told, self._owner.memory.space)
        except DeviceError as error:
            tell_failed(self._log, error)

    async def _go_back(
        self, run: Run, move: Move, cause: BaseException | None = None, *, resumable: bool = True
    ) -> None:
        """Let the guest run on the source again; an error means that this failed too, after ``cause``."""
        if not move.dark:
            # only the relay has stopped
            run.begin(self._nursery)
            return
        if not (resumable and await self._resume(run)):
            told = await self._owner.halt(run)
            if move.bases == {}:
                self._note_bases(run, told, move)
            after = f", after {cause}" if cause is not None else ""
            if move.bases is None:
                reason = f"nobody knows where the rings of the guest stand{after}"
                raise DeviceError("VHOST_GET_VRING_BASE", EIO, reason) from cause
            try:
                await self._launch.start_again(run, move.bases)
            except DeviceError as error:
                reason = f"{error.reason}{after}"
                raise DeviceError(error.call, error.errno, reason, error.arguments) from cause
            except OSError as error:
                raise OSError(error.errno, f"{error.strerror}{after}") from cause
        move.serves()

    async def _resume(self, run: Run) -> bool:
        """Resume the suspended source; False if it cannot resume or refuses to."""
        if not run.device.facts.resumes:
            return False
        try:
            await lifecycle.bind(run.device.device, run.plan)
            await run.device.resume()
            await lifecycle.enable_control(run.device.device, run.plan)
        except DeviceError as error:
            tell_failed(self._log, error)
            return False
        # a kick may have come while nobody listened
        run.ring_all()
        run.begin(self._nursery)
        return True

    # steps

    def _snapshot(self, run: Run, bases: Mapping[int, int]) -> Snapshot:
        """Snapshot of a run's guest; ``bases`` is empty while its rings still move."""
        data, control = run.rings_at(bases)
        rings = [*data, *([control] if control else [])]
        return taken(self._owner, {ring.index: ring for ring in rings}, bases)


def _require_indices(device: OwnedDevice) -> None:
    if not device.facts.tells_where:
        missing = "SUSPEND" if device.facts.keeps_indices else "ring indices"
        reason = f"{device.device.path} has no {missing}: nobody would know where its rings stand"
        raise CompatibilityError([reason])


async def _agrees(run: Run, state: TrackedState) -> None:
    """DeviceError if the target reports another MAC address than the one replayed to it."""
    own = net_config.decode(await run.device.read_config()).mac
    if run.plan.features & Feature.CTRL_MAC_ADDR.mask and own != state.mac:
        reason = f"the address is {format_mac(own)} after {format_mac(state.mac)} was set"
        raise DeviceError("VHOST_VDPA_GET_CONFIG", EIO, reason)


def _told(run: Run, state: TrackedState) -> tuple[int, str]:
    """Number of commands that the target acknowledged, and the digest of its reset state after them."""
    word = run.plan.features
    commands = [*replay(state, word), *replay_running(state, word)] if run.queue is not None else []
    found = TrackedState.after_reset(net_config.decode(run.device.facts.config).mac, word)
    for command in commands:
        found = found.after(command)
    return len(commands), found._replace(announce=state.announce).digest()
