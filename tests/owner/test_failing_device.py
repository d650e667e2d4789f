"""A device that fails while its guest runs is reset and put back; where that is no help its guest is told."""

from __future__ import annotations

from dataclasses import replace
from errno import EIO
from typing import TYPE_CHECKING, Any

import pytest
import trio

from cvqd.errors import DeviceError
from cvqd.owner.recovery import MOST, WINDOW
from cvqd.simulator.spec import CallFault, Fault, FaultAction, SimulatorSpec, default_features
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.wire.net_control import ERR, MacAddrSet, VlanAdd, VqPairsSet
from cvqd.wire.virtio import Feature, Status
from kit.rig import BROADCAST, CONTROL_FEATURES, MAC_A, MAC_B, Guest, Rig, frame, jumping_clock, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SPEC = SimulatorSpec(max_queue_pairs=2, features=default_features(2) | Feature.RING_PACKED.mask)
A, B = MacAddrSet(MAC_A).encode(), MacAddrSet(MAC_B).encode()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig.opened(tmp_path, SPEC) as rig:
        yield rig


@pytest.fixture(params=["split", "packed"])
async def guest(rig: Rig, request: Any) -> AsyncIterator[Guest]:
    features = rig.features if request.param == "packed" else rig.features & ~Feature.RING_PACKED.mask
    async with rig.guest(features=features) as guest:
        await guest.start()
        yield guest


def plan(rig: Rig, action: str = "needs_reset", *, count: int = 1, command: str = "*") -> None:
    rig.device.faults.add(Fault(command, FaultAction(action), 0.0, count))


def reasons(rig: Rig) -> list[object]:
    return [event["reason"] for event in rig.log.of("device.needs_reset")]


@pytest.mark.bad_day(
    "the device sets NEEDS_RESET",
    guest="ERR for the command it was about, at once; all that it had set holds again, and frames pass",
    log="device.needs_reset, state.replayed, device.recovered",
)
@jumping_clock
async def test_a_device_that_needs_a_reset_is_reset_and_put_back(rig: Rig, guest: Guest) -> None:
    await guest.set_mac(MAC_A)
    assert await guest.command(VlanAdd(7).encode()) == 0
    assert await guest.command(VqPairsSet(2).encode()) == 0
    digest = rig.owner.state.digest()
    plan(rig)
    begun = trio.current_time()
    assert await guest.command(B) == ERR
    await settled()
    assert trio.current_time() == begun, "nobody waited for a device that had failed"
    assert reasons(rig) == ["NEEDS_RESET"]
    assert len(rig.log.of("device.recovered")) == 1
    assert rig.log.of("state.replayed")[-1]["digest"] == digest == rig.owner.state.digest()
    assert not rig.owner.life.ledger.uncertain
    state = rig.device.net.control.state
    assert (state.mac, state.vlans, state.pairs) == (MAC_A, {7}, 2)
    assert not rig.log.of("state.reset")[1:], "the driver's life goes on"
    for pair in (0, 1):
        guest.driver.fill(pair)
    assert await guest.echo(frame(MAC_A, vlan=7))
    assert await guest.echo(frame(BROADCAST), pair=1)
    await guest.set_mac(MAC_B)


@jumping_clock
async def test_frames_that_the_device_took_and_did_not_send_are_sent_after_the_reset(
    rig: Rig, guest: Guest
) -> None:
    guest.driver.fill()
    assert await guest.echo(frame(BROADCAST, b"before"))
    rig.device.fail()
    for number in range(5):
        guest.driver.send_frame(frame(BROADCAST, b"number %d" % number))
    await settled()
    assert reasons(rig) == ["NEEDS_RESET"]
    received = guest.driver.received_frames()
    assert [entry[14:22] for entry in received] == [b"number %d" % number for number in range(5)]


@jumping_clock
async def test_a_device_that_fails_without_a_word_is_found_out_by_a_command_without_an_answer(
    rig: Rig, guest: Guest
) -> None:
    rig.device.net.config_bell.bind(-1)
    plan(rig)
    begun = trio.current_time()
    assert await guest.command(A) == ERR
    assert trio.current_time() - begun <= 1.1
    await settled()
    assert reasons(rig) == ["NEEDS_RESET"]
    await guest.set_mac(MAC_A)


@pytest.mark.bad_day(
    "the device gives back a buffer nobody sent",
    guest="ERR for the command it was about; a device with packed rings is reset, then the next one passes",
    log="device.fault, device.needs_reset, device.recovered",
)
@jumping_clock
async def test_a_packed_ring_that_cannot_be_followed_is_mended_by_a_reset(rig: Rig) -> None:
    async with rig.guest(features=rig.features) as guest:
        await guest.start()
        assert await guest.command(VlanAdd(7).encode()) == 0
        plan(rig, "wrong_id")
        begun = trio.current_time()
        assert await guest.command(A) == ERR
        assert trio.current_time() == begun
        await settled()
        assert [event["reason"] for event in rig.log.of("device.fault")] == ["used.id"]
        assert reasons(rig) == ["its control queue cannot be followed any more"]
        assert len(rig.log.of("device.recovered")) == 1
        assert rig.device.net.control.state.vlans == {7}
        await guest.set_mac(MAC_B)


@pytest.mark.bad_day(
    "the device fails again and again",
    guest="its front-end is hung up on after three resets within a minute; the next one is served",
    log="device.needs_reset, device.failed, frontend.disconnected",
)
@jumping_clock
async def test_a_device_that_fails_too_often_ends_the_connection(rig: Rig) -> None:
    async with rig.guest() as guest:
        await guest.start()
        await guest.set_mac(MAC_A)
        plan(rig, count=MOST + 1, command="vlan.add")
        for _ in range(MOST):
            assert await guest.command(VlanAdd(7).encode()) == ERR
        await settled()
        assert len(rig.log.of("device.recovered")) == MOST
        head = guest.driver.post_command(VlanAdd(7).encode())
        guest.control.notify()
        await guest.front_end.hung_up()
        # answered all the same
        used = guest.control.poll()
        assert used is not None
        assert guest.driver.take_ack(head) == ERR
    (failed,) = rig.log.of("device.failed")
    assert (failed["call"], failed["errno"]) == ("recovery", EIO)
    assert len(rig.log.of("device.needs_reset")) == MOST + 1
    assert rig.log.of("frontend.disconnected")[-1]["reason"] == (
        f"recovery: EIO: NEEDS_RESET, after {MOST} resets within {WINDOW:g} s"
    )
    assert not rig.owner.running
    assert not len(rig.owner.memory.space)
    async with rig.guest() as guest:
        await guest.start()
        await guest.set_mac(MAC_B)


@jumping_clock
async def test_a_device_that_fails_now_and_then_may_do_so_for_ever(rig: Rig, guest: Guest) -> None:
    for _ in range(4 * MOST):
        plan(rig)
        assert await guest.command(A) == ERR
        await trio.sleep(WINDOW / MOST)
    assert len(rig.log.of("device.recovered")) == 4 * MOST
    await guest.set_mac(MAC_A)


@jumping_clock
async def test_a_device_that_fails_while_state_is_put_back_is_reset_once_more(rig: Rig, guest: Guest) -> None:
    await guest.set_mac(MAC_A)
    plan(rig, count=2)
    assert await guest.command(B) == ERR
    await trio.sleep(2)
    assert reasons(rig)[0] == "NEEDS_RESET"
    assert "no answer within 1 s" in str(reasons(rig)[1])
    assert len(rig.log.of("device.recovered")) == 1
    assert rig.device.net.control.state.mac == MAC_A == rig.owner.state.mac
    await guest.set_mac(MAC_B)


@jumping_clock
async def test_a_reset_that_the_device_refuses_ends_the_connection(rig: Rig, guest: Guest) -> None:
    async def refuse(_: int) -> None:
        raise DeviceError("VHOST_SET_FEATURES", EIO, "gone")

    rig.device.set_features = refuse  # type: ignore[method-assign]
    rig.device.fail()
    await guest.front_end.hung_up()
    await settled()
    assert reasons(rig)[0] == "NEEDS_RESET"
    assert all("VHOST_SET_FEATURES: EIO: gone" in str(reason) for reason in reasons(rig)[1:])
    assert len(reasons(rig)) == MOST + 1
    assert "VHOST_SET_FEATURES: EIO: gone" in str(rig.log.of("device.failed")[0]["reason"])
    assert not rig.log.of("device.recovered")
    assert not rig.owner.running
    assert not rig.owner.current.mappings.mapped(0)
    del rig.device.set_features  # type: ignore[method-assign]
    async with rig.guest() as following:
        await following.start()
        await following.set_mac(MAC_B)


@jumping_clock
async def test_a_front_end_that_keeps_the_control_queue_is_served_through_a_reset_too(rig: Rig) -> None:
    """cvqd drives the queue itself there, and the failure may meet its own command."""
    async with rig.guest(
        "qemu-net", features=rig.features & ~CONTROL_FEATURES & ~Feature.RING_PACKED.mask
    ) as guest:
        await guest.start()
        plan(rig)
        await guest.front_end.set_vring_enable(3, enable=False)
        await settled()
        assert reasons(rig) == ["NEEDS_RESET"]
        assert len(rig.log.of("device.recovered")) == 1
        guest.driver.fill()
        assert await guest.echo(frame(MAC_B)), "promiscuous again"


@jumping_clock
async def test_a_device_that_fails_before_anybody_uses_it_is_reset_by_the_next_start(rig: Rig) -> None:
    rig.device.fail()
    await settled()
    assert await rig.device.get_status() & Status.NEEDS_RESET
    async with rig.guest() as guest:
        await guest.start()
        await guest.set_mac(MAC_A)
    assert not rig.log.of("device.needs_reset")


# a device that fails while it is stopped


async def answering(guest: Guest) -> None:
    """Its rings go on where they stood."""
    guest.driver.fill(0, 16)
    assert await guest.echo(frame(BROADCAST, b"to all"))
    assert await guest.command(B) == 0


@jumping_clock
# the first ring is asked where it stands when the device is inspected
@pytest.mark.parametrize("fault", [CallFault("suspend"), CallFault("get_vring_base", after=1)])
async def test_a_device_that_is_reset_though_it_did_not_suspend_is_stopped(
    tmp_path: Path, fault: CallFault
) -> None:
    spec = SimulatorSpec(max_queue_pairs=2, call_faults=(fault,))
    async with Rig.opened(tmp_path, spec) as rig, rig.guest() as guest:
        await guest.start()
        rig.device.faults.add(Fault("mac.addr_set", FaultAction.DROP))
        assert await guest.command(A) == ERR
        assert rig.owner.life.ledger.uncertain
        await guest.stop()
        assert [event["call"] for event in rig.log.of("device.failed")] == [fault.ioctl]
        assert [event["how"] for event in rig.log.of("device.stopped")] == ["reset"]
        # a reset leaves no doubt
        assert not rig.owner.life.ledger.uncertain
        await guest.start()
        await answering(guest)


async def test_a_device_that_does_not_show_its_configuration_any_more_is_stopped(
    rig: Rig, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(*_: object) -> None:
        raise DeviceError("VHOST_VDPA_GET_CONFIG", EIO)

    with monkeypatch.context() as patch:
        patch.setattr(rig.device, "get_config", none)
        await guest.stop()
    assert rig.log.of("device.failed")[0]["call"] == "VHOST_VDPA_GET_CONFIG"
    assert [event["how"] for event in rig.log.of("device.stopped")] == ["suspend"]
    await guest.start()
    await answering(guest)


async def test_packed_rings_of_a_device_that_did_not_suspend_are_lost(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, replace(SPEC, call_faults=(CallFault("suspend"),))) as rig:
        async with rig.guest(features=rig.features) as guest:
            await guest.start()
            with pytest.raises(FrontEndError):
                await guest.stop()
            assert [event["how"] for event in rig.log.of("device.stopped")] == ["reset"]
        async with rig.guest(features=rig.features) as guest:
            await guest.start()
            await answering(guest)


async def test_a_front_end_is_not_told_that_a_device_stopped_that_could_not_be_reset(tmp_path: Path) -> None:
    # six to look at it, four to negotiate, five to start
    faults = (CallFault("set_status", after=15),)
    async with Rig.opened(tmp_path, SimulatorSpec(max_queue_pairs=2, call_faults=faults)) as rig:
        async with rig.guest() as guest:
            await guest.start()
            with pytest.raises(FrontEndError):
                await guest.stop()
            assert not rig.log.of("device.stopped")
        async with rig.guest() as guest:
            await guest.start()
            await answering(guest)
