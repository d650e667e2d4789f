"""A guest moves from one daemon to another, its state through pipes; crosvm's order throughout."""

from __future__ import annotations

import fcntl
import gc
import json
import os
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from cvqd.core.ledger import Ledger
from cvqd.core.site_policy import SitePolicy
from cvqd.errors import CompatibilityError
from cvqd.frontend.device_state import PATIENCE
from cvqd.host import logging
from cvqd.host.log_limit import GuestLimit
from cvqd.host.log_sink import Sink
from cvqd.host.logging import StructuredLog
from cvqd.owner.snapshots import load, taken
from cvqd.simulator.spec import SimulatorSpec
from cvqd.testing.events import EventRecorder
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.wire import snapshot
from cvqd.wire.net_control import MacAddrSet, MacTableSet, RxMode, RxModeSet, VlanAdd, VqPairsSet
from cvqd.wire.snapshot import MAX_SIZE, decode, encode
from cvqd.wire.vhost_user_payloads import TransferDirection
from cvqd.wire.virtio import Feature, mask_of
from kit.rig import MAC_A, Guest, Rig, frame, jumping_clock, open_descriptors, settled
from kit.snapshot_examples import largest_state

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SPEC = SimulatorSpec(max_queue_pairs=4)


def only(rig: Rig, name: str) -> dict[str, object]:
    """Fields of the one event of this name."""
    (fields,) = rig.log.of(name)
    return fields


SAVE, LOAD = TransferDirection.SAVE, TransferDirection.LOAD


@asynccontextmanager
async def two(
    tmp_path: Path, target: SimulatorSpec = SPEC, site: SitePolicy | None = None
) -> AsyncIterator[tuple[Rig, Rig]]:
    """Source and target, each an instance of its own."""
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    options = {} if site is None else {"site": site}
    async with (
        Rig.opened(tmp_path / "source", SPEC) as source,
        Rig.opened(tmp_path / "target", target, log=EventRecorder(), **options) as destination,
    ):
        yield source, destination


@asynccontextmanager
async def arriving(guest: Guest, target: Rig) -> AsyncIterator[Guest]:
    """The same virtual machine with another front-end, which has negotiated and started nothing yet."""
    async with await target.connect() as front_end:
        front_end_before, guest.front_end = guest.front_end, front_end
        rig_before, guest.rig = guest.rig, target
        try:
            await front_end.play(guest.order.connect(guest.setup))
            await front_end.set_features(guest.features | Feature.PROTOCOL_FEATURES.mask)
            yield guest
        finally:
            guest.front_end, guest.rig = front_end_before, rig_before
    await settled()


async def change(guest: Guest) -> None:
    for command in (MacAddrSet(MAC_A), VqPairsSet(2), RxModeSet(RxMode.PROMISC, 0), VlanAdd(5)):
        assert await guest.command(command.encode()) == 0
    guest.driver.fill(0)
    assert await guest.echo(frame(MAC_A, vlan=5))


async def test_a_guest_goes_on_elsewhere_where_it_stopped(tmp_path: Path) -> None:
    async with two(tmp_path) as (source, target), source.guest("crosvm") as guest:
        await guest.start()
        await change(guest)
        await guest.stop()
        state = source.owner.state
        bases = [await guest.front_end.get_vring_base(ring.index) for ring in guest.setup.rings]
        data = await guest.front_end.save_state()
        taken = decode(data)
        assert [ring.base for ring in taken.rings] == bases
        assert bases[0] > 0 < bases[-1]
        assert (taken.digest, taken.features) == (state.digest(), guest.features)
        async with arriving(guest, target):
            await guest.front_end.load_state(data)
            # what the guest reads before it runs again is its own already
            assert await guest.front_end.get_config(0, 6) == MAC_A
            rings = tuple(replace(ring, base=bases[ring.index]) for ring in guest.setup.rings)
            await guest.front_end.play(guest.order.start(guest.setup._replace(rings=rings)))
            await guest.front_end.get_features()
            assert target.owner.state == state
            assert "state.reset" not in target.log.names()
            assert target.device.net.control.state.mac == MAC_A
            assert await guest.echo(frame(MAC_A, vlan=5))
            assert not await guest.echo(frame(MAC_A, vlan=6))
            assert await guest.command(VlanAdd(6).encode()) == 0
            assert await guest.echo(frame(MAC_A, vlan=6))
    saved, loaded = only(source, "snapshot.saved"), only(target, "snapshot.loaded")
    assert (saved["digest"], saved["bytes"], saved["how"]) == (state.digest(), len(data), "front-end")
    assert (loaded["digest"], loaded["bytes"], loaded["how"]) == (state.digest(), len(data), "front-end")


async def test_state_that_was_loaded_is_used_though_every_ring_looks_as_if_never_used(
    rig: Rig, saved: bytes
) -> None:
    async with rig.guest("crosvm") as guest:
        await guest.front_end.load_state(saved)
        await guest.start()
        assert rig.owner.state.digest() == decode(saved).digest
        await guest.stop()
    # it was for one start: a driver that begins anew begins anew
    async with rig.guest("crosvm") as another:
        await another.start()
        assert rig.owner.state.mac == SPEC.mac
    assert [event["reason"] for event in rig.log.of("state.reset")][-1] == "every ring is initial"


async def test_the_largest_state_goes_through_pipes_of_any_size(tmp_path: Path) -> None:
    state = largest_state(SPEC.max_queue_pairs)._replace(announce=False)
    everything = SPEC.offered_features & ~mask_of(Feature.ACCESS_PLATFORM, Feature.RING_PACKED)
    async with two(tmp_path) as (source, target), source.guest("crosvm", features=everything) as guest:
        # a guest that says all this takes its time; a replay is the same commands
        source.owner.life.load(state, everything, "test")
        await guest.start()
        before = source.device.net.control.state
        assert (len(before.vlans or ()), len(before.unicast), len(before.multicast)) == (4094, 5000, 5000)
        assert before.rss == state.hashing
        await guest.stop()
        for capacity in (4096, None, 1 << 20):
            data = await guest.front_end.save_state(capacity=capacity)
            assert len(data) > 90_000
            async with arriving(guest, target):
                await guest.front_end.load_state(data, capacity=capacity)
                await guest.start()
                # a hasher is its configuration, which `rss` is
                assert replace(target.device.net.control.state, hasher=before.hasher) == before
                await guest.stop()
    assert [event["digest"] for event in target.log.of("snapshot.loaded")] == [state.digest()] * 3


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig.opened(tmp_path, SPEC) as rig:
        yield rig


@pytest.fixture
async def saved(rig: Rig) -> bytes:
    """A state of a driver that was here and left."""
    async with rig.guest("crosvm") as guest:
        await guest.start()
        await change(guest)
        await guest.stop()
        return await guest.front_end.save_state()


def resealed(data: bytes) -> bytes:
    body = bytearray(data[:-16])
    body[-1] ^= 0xFF
    return snapshot.sealed(bytes(body))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[:0], "0 bytes are no header"),
        (lambda data: data[:-1], "bytes where it says"),
        (lambda data: data[: len(data) // 2], "bytes where it says"),
        (lambda data: data + b"\0", "bytes where it says"),
        (lambda data: data[:20] + bytes((data[20] ^ 1,)) + data[21:], "checksum"),
        (lambda data: bytes(len(data)), "does not begin like one"),
        (lambda data: encode(replace(decode(data), digest="0" * 16)), "not to 0000000000000000"),
        (lambda data: encode(replace(decode(data), max_pairs=9)), "pairs: the guest was offered 9"),
        (lambda data: encode(replace(decode(data), features=0)), "legacy"),
    ],
)
async def test_a_state_that_is_none_is_refused_and_the_next_is_taken(
    rig: Rig, saved: bytes, spoil: object, reason: str
) -> None:
    before = rig.owner.state
    async with rig.guest("crosvm") as guest:
        await guest.front_end.set_features(guest.features | Feature.PROTOCOL_FEATURES.mask)
        with pytest.raises(FrontEndError, match="the state was refused"):
            await guest.front_end.load_state(spoil(saved))  # type: ignore[operator]
        assert reason in only(rig, "snapshot.refused")["reason"]
        assert rig.owner.state == before
        await guest.front_end.load_state(saved)
        await guest.start()
        assert rig.owner.state.digest() == decode(saved).digest


async def test_a_state_without_end_is_refused_at_the_limit(rig: Rig) -> None:
    async with rig.guest("crosvm") as guest:
        with pytest.raises(FrontEndError, match="the state was refused"):
            await guest.front_end.load_state(bytes(MAX_SIZE + 1), capacity=1 << 20)
        assert only(rig, "snapshot.refused")["reason"] == f"more than {MAX_SIZE} bytes"
        await guest.start()


@jumping_clock
async def test_a_peer_that_stalls_is_given_up(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, SPEC) as rig, rig.guest("crosvm") as guest:
        await guest.start()
        await guest.stop()
        read, write = os.pipe2(os.O_CLOEXEC)
        begun = trio.current_time()
        await guest.front_end.set_device_state_fd(LOAD, read)
        os.close(read)
        os.write(write, b"cvqd")
        with pytest.raises(FrontEndError, match="the state was refused"):
            await guest.front_end.check_device_state()
        assert trio.current_time() - begun == pytest.approx(PATIENCE, abs=1)
        os.close(write)
        assert only(rig, "snapshot.refused")["reason"] == f"nothing came for {PATIENCE:g} s after 4 bytes"


@jumping_clock
async def test_a_pipe_that_its_owner_makes_block_stops_nobody(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, SPEC) as rig, rig.guest("crosvm") as guest:
        await guest.start()
        await guest.stop()
        read, write = os.pipe2(os.O_CLOEXEC)
        await guest.front_end.set_device_state_fd(LOAD, read)
        await settled()
        # the second in place of the first, which is closed meanwhile
        await guest.front_end.set_device_state_fd(LOAD, read)
        os.write(write, b"cv")
        await settled()
        os.set_blocking(read, True)
        os.write(write, b"qd")
        with pytest.raises(FrontEndError, match="the state was refused"):
            await guest.front_end.check_device_state()
        os.close(read)
        os.close(write)
        assert only(rig, "snapshot.refused")["reason"] == f"nothing came for {PATIENCE:g} s after 4 bytes"


@jumping_clock
async def test_a_reader_that_stalls_is_given_up_and_one_that_is_gone_is_noticed(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, SPEC) as rig, rig.guest("crosvm") as guest:
        await guest.start()
        for vid in range(4000):
            rig.owner.life.ledger.submitted(vid, VlanAdd(vid))
            rig.owner.life.ledger.answered(vid, acked=True)
        await guest.stop()
        for gone in (False, True):
            read, write = os.pipe2(os.O_CLOEXEC)
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
            await guest.front_end.set_device_state_fd(SAVE, write)
            os.close(write)
            if gone:
                os.close(read)
            with pytest.raises(FrontEndError, match="the state was refused"):
                await guest.front_end.check_device_state()
            if not gone:
                os.close(read)
    reasons = [event["reason"] for event in rig.log.of("snapshot.refused")]
    assert f"nothing was taken for {PATIENCE:g} s" in reasons[0]
    assert "nobody reads any more" in reasons[1]


async def test_running_rings_neither_give_nor_take_a_state(rig: Rig, saved: bytes) -> None:
    async with rig.guest("crosvm") as guest:
        await guest.start()
        for direction in (SAVE, LOAD):
            read, write = os.pipe2(os.O_CLOEXEC)
            with pytest.raises(FrontEndError, match="SET_DEVICE_STATE_FD was refused"):
                await guest.front_end.set_device_state_fd(direction, write if direction is SAVE else read)
            os.close(write)
            # ours is the only one that was left open
            assert os.read(read, 1) == b""
            os.close(read)
        with pytest.raises(FrontEndError, match="the state was refused"):
            await guest.front_end.check_device_state()
        await guest.set_mac()
        assert saved


async def test_a_driver_that_was_never_there_has_no_state_to_give(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, SPEC) as rig, rig.guest("crosvm") as guest:
        with pytest.raises(FrontEndError, match="SET_DEVICE_STATE_FD was refused"):
            await guest.front_end.save_state()
        assert "no guest's driver has been here" in only(rig, "snapshot.refused")["reason"]


async def test_a_front_end_that_says_nothing_of_its_guest_is_not_given_the_one_before(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path) as rig:
        async with rig.guest("crosvm") as guest:
            await guest.start()
            await guest.set_mac(MAC_A)
        async with await rig.connect() as front_end:
            await front_end.play(guest.order.connect(guest.setup))
            with pytest.raises(FrontEndError):
                await front_end.save_state()
            await front_end.set_features(guest.features | Feature.PROTOCOL_FEATURES.mask)
            assert decode(await front_end.save_state()).features == guest.features


async def test_state_of_a_driver_with_other_features_ends_the_connection_and_is_given_up(
    rig: Rig, saved: bytes
) -> None:
    async with rig.guest(
        "crosvm", features=rig.features & ~mask_of(Feature.CTRL_VLAN, Feature.RING_PACKED)
    ) as guest:
        await guest.front_end.load_state(saved)
        await guest.front_end.play(guest.order.start(guest.setup))
        await guest.front_end.hung_up()
    assert "differs in CTRL_VLAN" in only(rig, "frontend.refused")["reason"]
    assert only(rig, "snapshot.unused")
    async with rig.guest("crosvm") as guest:
        await guest.start()
        assert rig.owner.state.mac == SPEC.mac


async def test_state_whose_front_end_leaves_before_a_driver_ran_is_given_up(rig: Rig, saved: bytes) -> None:
    async with rig.guest("crosvm") as guest:
        await guest.front_end.load_state(saved)
    await settled()
    assert only(rig, "snapshot.unused")["reason"] == "its front-end left before a driver ran"
    assert rig.owner.state.mac == SPEC.mac


async def test_a_driver_that_resets_the_device_begins_anew_all_the_same(rig: Rig, saved: bytes) -> None:
    async with rig.guest("qemu") as guest:
        await guest.front_end.load_state(saved)
        await guest.front_end.set_status(0)
        await guest.start()
        assert rig.owner.state.mac == SPEC.mac
    assert only(rig, "snapshot.unused")["reason"] == "the driver reset the device"


async def test_what_the_site_allows_no_guest_it_takes_from_no_snapshot(tmp_path: Path) -> None:
    site = SitePolicy(vlans=frozenset({7}), promiscuous=False)
    async with two(tmp_path, site=site) as (source, target), source.guest("crosvm") as guest:
        await guest.start()
        await change(guest)
        await guest.stop()
        data = await guest.front_end.save_state()
        async with arriving(guest, target):
            with pytest.raises(FrontEndError, match="the state was refused"):
                await guest.front_end.load_state(data)
        assert only(target, "snapshot.refused")["reason"] == "policy: the state breaks site.vlan"


async def test_a_table_longer_than_any_guest_could_set_here_is_refused_before_anything_is_done(
    tmp_path: Path,
) -> None:
    async with Rig.opened(tmp_path, SPEC, max_command=256) as rig:
        table = MacTableSet(tuple(bytes([2, 0, 0, 0, 0, n]) for n in range(100)), ())
        rig.owner.life.ledger = Ledger(rig.owner.state.after(table))
        rig.owner.features = rig.features
        data = encode(taken(rig.owner, {}))
        with pytest.raises(CompatibilityError, match=r"mac\.table_set: 610 bytes, .*max_command allows 256"):
            load(rig.owner, data, rig.log, "a test")


async def test_a_target_that_can_less_says_so_in_every_respect(tmp_path: Path) -> None:
    less = replace(SPEC, mtu=1400, features=SPEC.offered_features & ~Feature.CTRL_VLAN.mask)
    async with two(tmp_path, target=less) as (source, target), source.guest("crosvm") as guest:
        await guest.start()
        await guest.stop()
        data = await guest.front_end.save_state()
        async with target.guest("crosvm") as fresh:
            with pytest.raises(FrontEndError, match="the state was refused"):
                await fresh.front_end.load_state(data)
        assert only(target, "snapshot.refused")["reason"] == (
            "features: CTRL_VLAN is not offered; mtu: 1400 is less than the guest's 1500"
        )


async def transfer_badly(rig: Rig, state: bytes) -> None:
    async with rig.guest("crosvm") as guest:
        await guest.front_end.load_state(state)
        with pytest.raises(FrontEndError):
            await guest.front_end.load_state(state[:-1])
        ends = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        for read, _ in ends:
            # each takes the place of the one before; the last is cut off by the front-end's leaving
            await guest.front_end.set_device_state_fd(LOAD, read)
    await settled()
    for end in ends:
        for fd in end:
            os.close(fd)


async def test_transfers_leave_no_descriptor_however_they_end(rig: Rig, saved: bytes) -> None:
    await settled()
    gc.collect()
    before = open_descriptors()
    for _ in range(3):
        await transfer_badly(rig, saved)
    # a guest's memory goes when nothing looks at it any more
    gc.collect()
    assert open_descriptors() == before


async def test_a_front_end_that_asks_for_the_state_without_end_does_not_fill_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as long as it takes to ask, hardly a line is admitted again
    monkeypatch.setattr(logging, "GuestLimit", partial(GuestLimit, burst=20, rate=1))
    with (tmp_path / "log").open("wb") as file:
        log = StructuredLog(Sink(file.fileno()), instance="vm0", device="d", format="json")
        async with Rig.opened(tmp_path, log=log) as rig, rig.guest("crosvm") as guest:
            for _ in range(200):
                # nothing comes through it: no state
                read, write = os.pipe2(os.O_CLOEXEC)
                os.close(write)
                try:
                    await guest.front_end.set_device_state_fd(LOAD, read)
                finally:
                    os.close(read)
                with pytest.raises(FrontEndError, match="the state was refused"):
                    await guest.front_end.check_device_state()
        log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    (limited,) = {line["of"] for line in lines if line["event"] == "log.limited"}
    told = sum(line["event"] == limited for line in lines)
    assert limited == "snapshot.refused"
    assert log.counts[limited] == 200 > told >= 20
