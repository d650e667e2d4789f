"""A Linux guest whose daemon is killed: what the guest was told is in the state log.

Linux under virtio_uml does not reconnect, and 6.1 waits for ever for a command
that was under way.  So the guest writes down each success on its console.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import pytest

from cvqd.core.command_log import CommandLog
from cvqd.core.kept_state import fold
from cvqd.wire.net_config import format_mac
from kit.uml_link import linked

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.guest
ROUNDS = 3
TOLD = re.compile(r"told (\S+)")


@pytest.mark.parametrize("number", range(ROUNDS))
async def test_what_the_guest_was_told_is_kept(tmp_path: Path, number: int) -> None:
    chance = random.Random(number)
    async with linked(tmp_path) as (daemon, guest):
        await guest.check("ip link set eth0 up")
        await guest.check(
            "(for n in $(seq 100 999); do mac=52:54:00:00:0${n%??}:${n#?};"
            " ip link set eth0 address $mac && echo told $mac > /dev/console; done) > /dev/null 2>&1 &"
        )
        mark = 0
        for _ in range(5 + chance.randrange(30)):
            acked = await daemon.event("cvq.command.acked", after=mark, command="mac.addr_set")
            mark = daemon.events.index(acked) + 1
        daemon.kill()
        log = (tmp_path / "vm0.state" / "state.log").read_bytes()
        # a guest that hangs says no more, and one that does not has no card any more
        told = TOLD.findall(guest.console)
    assert told
    life = fold(CommandLog(memoryview(bytearray(log))).read().records)
    assert life is not None
    kept = format_mac(life.state.mac)
    # the device may have executed one more, whose answer the guest did not write down
    assert kept in (told[-1], address(len(told) + 100))


def address(number: int) -> str:
    return f"52:54:00:00:0{number // 100}:{number % 100:02d}"
