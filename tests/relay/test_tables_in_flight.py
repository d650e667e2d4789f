"""Address tables that a device refuses, among other commands of one batch.

A refused table is followed by a command of the daemon's own that lets every
frame in, and a table that fits by one that takes it back.  What the guest sent
behind the table must not overtake that, and what it sent before must be known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cvqd.wire.net_control import ERR, OK, MacTableSet, RxMode, RxModeSet
from kit.rig import Rig, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TOO_MUCH = bytes.fromhex("0200000000ff")
FITS = MacTableSet((bytes.fromhex("020000000001"),), ())
REFUSED = MacTableSet((TOO_MUCH,), ())
ON, OFF = RxModeSet(RxMode.PROMISC, 1), RxModeSet(RxMode.PROMISC, 0)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig.opened(tmp_path) as rig:
        control = rig.device.net.control
        answer = control.answer

        def picky(request: bytes) -> bytes:
            return bytes((ERR,)) if TOO_MUCH in request else answer(request)

        control.answer = picky  # type: ignore[method-assign]
        yield rig


@pytest.mark.parametrize(
    "batch",
    [
        [FITS, REFUSED],
        [REFUSED, FITS],
        [REFUSED, FITS, REFUSED],
        [FITS, ON],
        [FITS, ON, OFF],
        [REFUSED, OFF],
        [OFF, FITS, ON, REFUSED, OFF, FITS, FITS],
    ],
    ids=lambda batch: " ".join(
        {FITS: "fits", REFUSED: "refused", ON: "on", OFF: "off"}[each] for each in batch
    ),
)
@pytest.mark.parametrize("before", [FITS, REFUSED], ids=["filtering", "widened"])
async def test_device_and_state_agree_whatever_a_batch_mixes(
    rig: Rig, before: MacTableSet, batch: list[MacTableSet | RxModeSet]
) -> None:
    async with rig.guest("uml") as guest:
        await guest.start()
        for command in (OFF, before):
            assert await guest.command(command.encode()) == OK
        heads = [guest.driver.post_command(command.encode()) for command in batch]
        guest.control.notify()
        for head in heads:
            assert (await guest.control.wait()).head == head
            assert guest.driver.take_ack(head) == OK
        await settled()
        state, device = rig.owner.state, rig.device.net.control.state
        modes = sum(1 << mode for mode in device.modes)
        assert modes == state.rx | (state.widened and 1 << RxMode.PROMISC)
        wanted = [each for each in batch if isinstance(each, MacTableSet)][-1]
        assert state.widened == (wanted is REFUSED)
        assert state.unicast == wanted.unicast
        said = [OFF, *(each for each in batch if isinstance(each, RxModeSet))][-1]
        assert state.rx >> RxMode.PROMISC & 1 == said.on
