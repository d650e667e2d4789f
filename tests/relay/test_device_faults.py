"""A device that does not answer, or answers wrongly: the guest has its answer in time, the state stays true.

Time is trio's mock clock: it jumps to the next deadline when nobody has
anything to do, so "within the deadline" is measured exactly.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import trio

from cvqd.simulator.spec import Fault, FaultAction
from cvqd.wire.net_control import ERR, MacAddrSet, RxMode, RxModeSet, VlanAdd, VqPairsSet
from kit.rig import MAC_A, MAC_B, Rig, frame, jumping_clock, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from kit.rig import Guest

DEADLINE = 1.0
A, B = MacAddrSet(MAC_A).encode(), MacAddrSet(MAC_B).encode()
MAC_C = bytes.fromhex("525400cc0003")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig.opened(tmp_path, deadline=DEADLINE) as rig:
        yield rig


@pytest.fixture
async def guest(rig: Rig) -> AsyncIterator[Guest]:
    async with rig.guest() as guest:
        await guest.start()
        yield guest


def fault(rig: Rig, action: str, *, command: str = "*", count: int = 1, delay: float = 0.0) -> None:
    rig.device.faults.add(Fault(command, FaultAction(action), delay, count))


async def timed(guest: Guest, command: bytes) -> tuple[int, float]:
    begun = trio.current_time()
    return await guest.command(command), trio.current_time() - begun


@pytest.mark.parametrize(
    ("action", "obeyed", "fault_word"),
    [
        ("drop", False, None),
        ("wrong_id", False, "used.id"),
        ("delay", True, None),
    ],
)
@jumping_clock
async def test_a_command_without_an_answer_ends_in_err_at_its_deadline(
    rig: Rig, guest: Guest, action: str, *, obeyed: bool, fault_word: str | None
) -> None:
    fault(rig, action, delay=3.0)
    ack, took = await timed(guest, A)
    assert ack == ERR
    assert DEADLINE <= took <= 1.1 * DEADLINE
    assert rig.owner.state.mac != MAC_A, "no answer, no change"
    assert rig.owner.life.ledger.uncertain
    assert rig.counters["quarantined"] == 1
    (expired,) = rig.log.of("cvq.command.expired")
    assert expired["command"] == "mac.addr_set"
    assert [event["reason"] for event in rig.log.of("device.fault")] == ([fault_word] if fault_word else [])
    assert (rig.device.net.control.state.mac == MAC_A) is obeyed

    ack, took = await timed(guest, B)
    assert (ack, took) == (0, 0.0)
    await settled()
    assert rig.owner.state.mac == MAC_B == rig.device.net.control.state.mac


@jumping_clock
async def test_a_late_answer_moves_the_state_and_gives_the_slot_back(rig: Rig, guest: Guest) -> None:
    fault(rig, "delay", delay=2.5)
    assert await guest.command(A) == ERR
    assert rig.owner.life.ledger.uncertain
    await trio.sleep(2)
    assert rig.owner.state.mac == MAC_A == rig.device.net.control.state.mac
    assert not rig.owner.life.ledger.uncertain
    assert rig.counters["quarantined"] == 0
    (late,) = rig.log.of("cvq.command.late")
    assert (late["command"], late["ack"]) == ("mac.addr_set", 0)
    changed = rig.log.of("state.changed")[-1]
    assert (changed["late"], changed["digest"]) == (True, rig.owner.state.digest())
    assert rig.status["counters"]["answers"] == {"mac.addr_set": {"expired": 1, "late": 1}}
    # the guest heard ERR once and nothing since
    assert guest.control.poll() is None
    await guest.set_mac(MAC_B)


@jumping_clock
async def test_a_late_refusal_changes_nothing(rig: Rig, guest: Guest) -> None:
    """The device says no, in its own time."""
    before = rig.owner.state
    fault(rig, "delay", delay=2.5)
    rig.device.net.control.answer = lambda _: bytes((ERR,))  # type: ignore[method-assign]
    assert await guest.command(A) == ERR
    await trio.sleep(2)
    assert rig.owner.state == before
    assert not rig.owner.life.ledger.uncertain
    assert rig.log.of("cvq.command.late")[0]["ack"] == ERR
    assert not rig.log.of("state.changed")


@jumping_clock
async def test_a_late_answer_does_not_undo_what_was_sent_after_it(rig: Rig, guest: Guest) -> None:
    fault(rig, "delay", delay=2.5)
    assert await guest.command(A) == ERR
    assert await guest.command(B) == 0
    assert rig.owner.state.mac == MAC_B
    assert rig.owner.life.ledger.uncertain
    await trio.sleep(2)
    assert rig.log.of("cvq.command.late")
    assert rig.owner.state.mac == MAC_B == rig.device.net.control.state.mac
    assert not rig.owner.life.ledger.uncertain
    assert (await guest.front_end.get_config(0, 6)) == MAC_B


@jumping_clock
async def test_late_answers_out_of_order_make_the_state_of_the_order_sent(rig: Rig, guest: Guest) -> None:
    fault(rig, "delay", delay=6)
    fault(rig, "delay", delay=3)
    for command in (A, B):
        assert await guest.command(command) == ERR
    assert rig.counters["quarantined"] == 2
    await trio.sleep(3)
    assert rig.owner.state.mac == MAC_B
    assert rig.owner.life.ledger.uncertain
    await trio.sleep(3)
    assert rig.owner.state.mac == MAC_B == rig.device.net.control.state.mac
    assert not rig.owner.life.ledger.uncertain


@jumping_clock
async def test_an_answer_just_in_time_counts(rig: Rig, guest: Guest) -> None:
    fault(rig, "delay", delay=0.9 * DEADLINE)
    ack, took = await timed(guest, A)
    assert (ack, took) == (0, pytest.approx(0.9))
    assert rig.owner.state.mac == MAC_A
    assert not rig.log.of("cvq.command.expired")


@jumping_clock
async def test_an_answer_given_twice_is_one_answer(rig: Rig, guest: Guest) -> None:
    fault(rig, "twice")
    assert await timed(guest, A) == (0, 0.0)
    assert [event["reason"] for event in rig.log.of("device.fault")] == ["used.id"]
    assert rig.counters["device_faults"] == 1
    assert guest.control.poll() is None
    await guest.set_mac(MAC_B)


@jumping_clock
async def test_an_answer_of_no_bytes_is_an_err_and_leaves_doubt(rig: Rig, guest: Guest) -> None:
    fault(rig, "zero_length")
    assert await timed(guest, A) == (ERR, 0.0)
    assert [event["reason"] for event in rig.log.of("device.fault")] == ["used.length"]
    assert rig.owner.state.mac != MAC_A
    assert rig.owner.life.ledger.uncertain
    await guest.set_mac(MAC_B)
    # only a reset settles whether it was executed
    await guest.stop()
    assert not rig.owner.life.ledger.uncertain


@jumping_clock
async def test_the_devices_err_is_the_guests(rig: Rig, guest: Guest) -> None:
    before = rig.owner.state
    fault(rig, "err")
    assert await timed(guest, A) == (ERR, 0.0)
    assert rig.owner.state == before
    assert not rig.owner.life.ledger.uncertain
    assert rig.status["commands"][-1]["outcome"] == "err"
    await guest.set_mac(MAC_B)


@pytest.mark.parametrize("action", ["drop", "delay", "twice", "wrong_id", "zero_length", "err"])
@jumping_clock
async def test_a_batch_with_one_bad_answer_is_answered_in_order_and_in_time(
    rig: Rig, guest: Guest, action: str
) -> None:
    """The fault hits the third of eight."""
    fault(rig, action, command="vlan.add", delay=30)
    guest.driver.fill()
    commands = [A, RxModeSet(RxMode.ALLMULTI, 1).encode(), VlanAdd(7).encode(), B] * 2
    begun = trio.current_time()
    heads = [guest.driver.post_command(command) for command in commands]
    guest.control.notify()
    acks = []
    for head in heads:
        assert (await guest.control.wait()).head == head
        acks.append(guest.driver.take_ack(head))
    assert trio.current_time() - begun <= 1.1 * DEADLINE
    assert acks == [0, 0, 0 if action == "twice" else ERR, 0, 0, 0, 0, 0]
    await settled()
    assert rig.owner.state.mac == MAC_B == rig.device.net.control.state.mac
    assert rig.owner.state.vlan_ids() == [7]
    assert await guest.echo(frame(MAC_B, vlan=7))


@jumping_clock
async def test_a_command_that_waits_for_one_without_an_answer_goes_when_that_has_expired(
    rig: Rig, guest: Guest
) -> None:
    """How many pairs are allowed depends on what is in flight; nobody waits longer than its own deadline."""
    fault(rig, "drop")
    heads = [guest.driver.post_command(command) for command in (A, VqPairsSet(2).encode())]
    begun = trio.current_time()
    guest.control.notify()
    acks = []
    for head in heads:
        await guest.control.wait()
        acks.append(guest.driver.take_ack(head))
    assert acks[0] == ERR
    assert trio.current_time() - begun <= 1.1 * DEADLINE
    # sent or not, guest, daemon and device agree
    assert rig.owner.state.pairs == rig.device.net.control.state.pairs == (2 if acks[1] == 0 else 1)


@jumping_clock
async def test_with_every_slot_quarantined_commands_still_end_in_time(rig: Rig, guest: Guest) -> None:
    slots = rig.owner.current.shadow._layout.slots
    fault(rig, "delay", delay=10, count=slots)
    for _ in range(slots // 16):
        heads = [guest.driver.post_command(A) for _ in range(16)]
        guest.control.notify()
        for head in heads:
            await guest.control.wait()
            assert guest.driver.take_ack(head) == ERR
    assert rig.counters["quarantined"] == slots == 64
    for _ in range(3):
        ack, took = await timed(guest, B)
        assert ack == ERR
        assert took <= 1.1 * DEADLINE
    # nothing of these was sent, so nothing of them is in doubt
    assert rig.device.statistics.cvq_requests == slots
    # refusals need no slot
    assert await timed(guest, VqPairsSet(9).encode()) == (ERR, 0.0)
    await trio.sleep(20)
    assert rig.counters["quarantined"] == 0
    assert not rig.owner.life.ledger.uncertain
    await guest.set_mac(MAC_C)


@jumping_clock
async def test_slots_are_used_again_for_ever(rig: Rig, guest: Guest) -> None:
    for turn in range(200):
        if turn % 3 == 0:
            fault(rig, "delay", delay=1.5)
        ack = await guest.command(A if turn % 2 else B)
        assert ack == (ERR if turn % 3 == 0 else 0)
    await trio.sleep(5)
    assert rig.counters["quarantined"] == 0
    assert not rig.owner.life.ledger.uncertain
    assert rig.owner.state.mac == rig.device.net.control.state.mac


@jumping_clock
async def test_a_stop_answers_what_is_in_flight_within_the_deadline(rig: Rig, guest: Guest) -> None:
    fault(rig, "drop")
    head = guest.driver.post_command(A)
    guest.control.notify()
    await settled()
    begun = trio.current_time()
    await guest.stop()
    assert trio.current_time() - begun <= 1.1 * DEADLINE
    used = guest.control.poll()
    assert used is not None
    assert (used.head, guest.driver.take_ack(head)) == (head, ERR)
    guest.driver.restart()
    await guest.start()
    assert not rig.owner.life.ledger.uncertain
    await guest.set_mac(MAC_B)


@jumping_clock
async def test_a_stop_in_a_hurry_does_not_wait_for_the_deadline(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, deadline=60) as rig, rig.guest() as guest:
        await guest.start()
        fault(rig, "drop")
        head = guest.driver.post_command(A)
        guest.control.notify()
        await settled()
        rig.owner.ends(0.5)
        begun = trio.current_time()
        await guest.stop()
        assert 0.5 <= trio.current_time() - begun < 0.6
        assert guest.control.poll() is not None
        assert guest.driver.take_ack(head) == ERR


@jumping_clock
async def test_a_front_end_that_hangs_up_leaves_nothing_in_flight(rig: Rig) -> None:
    async with rig.guest() as guest:
        await guest.start()
        fault(rig, "delay", delay=30, count=3)
        heads = [guest.driver.post_command(A) for _ in range(3)]
        guest.control.notify()
        await settled()
        guest.front_end.close()
        await trio.sleep(1.1 * DEADLINE)
        assert rig.log.of("frontend.disconnected")
        for head in heads:
            used = guest.control.poll()
            assert used is not None
            assert (used.head, guest.driver.take_ack(head)) == (head, ERR)
    async with rig.guest() as guest:
        await guest.start()
        await guest.set_mac(MAC_B)


@jumping_clock
async def test_a_device_whose_used_index_jumps_is_reset(rig: Rig, guest: Guest) -> None:
    queue = rig.owner._run.queue  # type: ignore[union-attr]
    assert queue is not None
    queue._ring._ring.used_index = 5000
    rig.owner._run._call.ring()  # type: ignore[union-attr]
    await settled()
    assert [event["reason"] for event in rig.log.of("device.fault")] == ["used.index"]
    assert len(rig.log.of("device.recovered")) == 1
    assert await timed(guest, A) == (0, 0.0)
    await guest.set_mac(MAC_B)


@jumping_clock
async def test_a_replay_that_the_device_does_not_answer_ends_the_connection_and_the_next_works(
    rig: Rig,
) -> None:
    async with rig.guest() as guest:
        await guest.start()
        await guest.set_mac(MAC_A)
        fault(rig, "drop", command="mac.addr_set")
        guest.front_end.close()
        await settled()
        guest.memory.allocate(16)
    async with rig.guest() as again:
        # a ring that was used: the driver goes on where it stood
        again.control.skip_to(4)
        begun = trio.current_time()
        with pytest.raises(Exception, match="hung up"):
            await again.start()
        assert trio.current_time() - begun <= 1.1 * DEADLINE
        (failed,) = rig.log.of("device.failed")
        assert failed["call"] == "replay"
        assert "mac.addr_set" in str(failed["reason"])
    async with rig.guest() as third:
        await third.start()
        await third.set_mac(MAC_B)


async def test_the_deadline_holds_on_the_wall_clock_too(tmp_path: Path) -> None:
    async with Rig.opened(tmp_path, deadline=DEADLINE) as rig, rig.guest() as guest:
        await guest.start()
        fault(rig, "drop")
        begun = time.monotonic()
        assert await guest.command(A) == ERR
        took = time.monotonic() - begun
        assert DEADLINE <= took <= 1.1 * DEADLINE
        await guest.set_mac(MAC_B)
