"""``cvqd snapshot`` and ``cvqd restore``, on files and on a daemon in a process of its own."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from cvqd import cli
from cvqd.core.tracked import TrackedState
from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.testing.driver import GuestMemory
from cvqd.testing.frontend import FrontEnd
from cvqd.testing.net_driver import NetDriver
from cvqd.testing.sequences import ORDERS
from cvqd.wire.net_config import NetConfig
from cvqd.wire.net_control import MacAddrSet, VlanAdd, VlanDel
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.snapshot import RingBase, decode, encode
from cvqd.wire.virtio import Feature, mask_of
from kit.snapshot_examples import MAC, RSS, largest_state, snapshot_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

OTHER = bytes.fromhex("525400000002")


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """Path of a file with the snapshot of a state."""

    def write(state: TrackedState, **parts: Any) -> str:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.snapshot"
        file.write_bytes(encode(snapshot_of(state, **parts)))
        return str(file)

    return write


def test_a_file_is_shown_to_people(written: Any, capsys: Any):
    rings = (RingBase(0, 256, 7), RingBase(1, 256, None), RingBase(2, 256, None))
    config = NetConfig(MAC, mtu=9000).encode()
    file = written(
        TrackedState(MAC, vlans=0b100110),
        features=mask_of(Feature.MQ, Feature.MAC),
        rings=rings,
        config=config,
    )
    assert cli.main(["snapshot", "show", file]) == 0
    shown = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    for row in (
        ["snapshot", "of simulator"],
        ["features", "MAC MQ"],
        ["offered", "pairs 8, MTU 9000"],
        ["rings", "0: 256 entries, at 7; 1-2: 256 entries, running"],
        ["mac", "52:54:00:00:00:01"],
        ["vlans", "1-2 5"],
    ):
        assert row in shown


def test_a_file_is_shown_to_programs_with_the_keys_of_status(written: Any, capsys: Any):
    state = TrackedState(MAC, announce=True).after(RSS)
    assert cli.main(["snapshot", "show", "--json", written(state, rings=(RingBase(0, 64, 7),))]) == 0
    text = capsys.readouterr().out
    shown = json.loads(text)
    assert shown["state"] == json.loads(json.dumps(state.as_dict()))
    assert shown["snapshot"]["rings"] == [{"index": 0, "num": 64, "base": 7}]
    assert shown["snapshot"]["config"]["mac"] == "52:54:00:00:00:01"
    assert RSS.key.hex() not in text


def test_equal_files_differ_in_nothing_wherever_they_were_taken(written: Any, capsys: Any):
    state = largest_state()
    assert cli.main(["snapshot", "diff", written(state), written(state, origin="elsewhere")]) == 0
    assert capsys.readouterr().out == ""


def test_what_differs_is_said_by_its_key(written: Any, capsys: Any):
    before = TrackedState(MAC, vlans=0b110)
    after = before._replace(mac=OTHER, vlans=0b101, announce=True)
    files = [written(before, rings=(RingBase(0, 64, 7),)), written(after, rings=(RingBase(0, 64, None),))]
    assert cli.main(["snapshot", "diff", *files]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "state.mac: 52:54:00:00:00:01 -> 52:54:00:00:00:02" in lines
    assert "state.vlans: -1 +0" in lines
    assert "state.announce: false -> true" in lines
    assert "snapshot.rings: -index=0,num=64,base=7 +index=0,num=64,base=none" in lines
    assert cli.main(["snapshot", "diff", "--json", *files]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["state.vlans"] == {"before": [1, 2], "after": [0, 2]}
    assert sorted(found) == sorted(line.partition(":")[0] for line in lines)


def test_another_order_of_a_table_is_a_difference_without_entries(written: Any, capsys: Any):
    one, other = ((MAC, OTHER), (OTHER, MAC))
    files = [written(TrackedState(MAC, unicast=one)), written(TrackedState(MAC, unicast=other))]
    assert cli.main(["snapshot", "diff", *files]) == 1
    assert capsys.readouterr().out == "state.mac_table.unicast: in another order\n"


@pytest.mark.parametrize("verb", [["show"], ["diff"]])
def test_what_is_no_snapshot_is_refused_with_file_and_reason(
    written: Any, tmp_path: Path, capsys: Any, verb: Any
):
    good = written(TrackedState(MAC))
    bad = tmp_path / "bad"
    for data, reason in (
        (
            encode(snapshot_of(TrackedState(MAC)))[:-1],
            "not a snapshot: 167 bytes where it says 168 (byte 167)",
        ),
        (encode(snapshot_of(TrackedState(MAC), digest="0" * 16)), "and not to 0000000000000000"),
    ):
        bad.write_bytes(data)
        assert cli.main(["snapshot", *verb, *([good] if verb == ["diff"] else []), str(bad)]) == 65
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith(f"cvqd: {bad}: ")
        assert reason in shown.err
    assert cli.main(["snapshot", "show", str(tmp_path / "none")]) == 66
    assert "No such file" in capsys.readouterr().err


def test_a_bad_file_is_blamed_before_any_instance_is_asked(tmp_path: Path, capsys: Any):
    bad = tmp_path / "bad"
    bad.write_bytes(encode(snapshot_of(TrackedState(MAC)))[:-1])
    assert cli.main(["restore", "nobody", str(bad)]) == 65
    assert capsys.readouterr().err.startswith(f"cvqd: {bad}: not a snapshot: ")


def test_a_verb_of_the_verb_has_to_be_named(capsys: Any):
    with pytest.raises(SystemExit) as ended:
        cli.main(["snapshot"])
    assert ended.value.code == 64
    assert "cvqd snapshot: the following arguments are required: VERB" in capsys.readouterr().err


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    async with DaemonProcess.start(tmp_path, simulator_config(tmp_path)) as daemon:
        yield daemon


class Guest:
    """A front-end in crosvm's order with a driver behind it, on a daemon's socket."""

    def __init__(self, front_end: FrontEnd, memory: GuestMemory, features: int) -> None:
        self.front_end = front_end
        self.features = features
        self.driver = NetDriver(memory, 4, 256, ring_format=RingFormat.of(features))

    @classmethod
    @asynccontextmanager
    async def on(cls, daemon: DaemonProcess) -> AsyncIterator[Guest]:
        unwanted = mask_of(Feature.PROTOCOL_FEATURES, Feature.RING_PACKED, Feature.HASH_REPORT, Feature.RSS)
        with GuestMemory() as memory:
            async with await FrontEnd.connect(daemon.socket) as front_end:
                guest = cls(front_end, memory, await front_end.get_features() & ~unwanted)
                try:
                    await front_end.play(ORDERS["crosvm"].connect(guest.driver.setup(guest.features)))
                    yield guest
                finally:
                    guest.driver.close()

    async def start(self) -> None:
        await self.front_end.play(ORDERS["crosvm"].start(self.driver.setup(self.features)))
        await self.front_end.get_features()

    async def stop(self) -> None:
        await self.front_end.play(ORDERS["crosvm"].stop(self.driver.setup(self.features)))


async def cvqd(*arguments: str) -> int:
    return await trio.to_thread.run_sync(cli.main, arguments)


@pytest.mark.timeout(120)
async def test_a_guest_goes_on_from_what_was_written_down_of_it(tmp_path: Path, capsys: Any) -> None:
    async with running(tmp_path) as daemon:
        config, running_file, stopped = (
            str(daemon.config),
            str(tmp_path / "running"),
            str(tmp_path / "stopped"),
        )
        assert await cvqd("snapshot", "take", "--config", config, running_file) == 75
        assert "no guest's driver has been here" in capsys.readouterr().err
        async with Guest.on(daemon) as guest:
            await guest.start()
            for command in (MacAddrSet(MAC), VlanAdd(5)):
                assert await guest.driver.command(command.encode()) == 0
            assert await cvqd("snapshot", "take", "--config", config, running_file) == 0
            assert await cvqd("restore", "--config", config, running_file) == 75
            assert "a guest's driver is running" in capsys.readouterr().err
            assert await guest.driver.command(VlanDel(5).encode()) == 0
            await guest.stop()
            assert await cvqd("snapshot", "take", "--config", config, stopped) == 0
        taken = decode((tmp_path / "running").read_bytes())
        assert {ring.base for ring in taken.rings} == {None}
        assert (tmp_path / "running").stat().st_mode & 0o777 == 0o600
        assert {ring.base for ring in decode((tmp_path / "stopped").read_bytes()).rings} > {0}
        assert await cvqd("snapshot", "diff", running_file, stopped) == 1
        assert "state.vlans: -5" in capsys.readouterr().out.splitlines()
        assert await cvqd("restore", "--config", config, running_file) == 0
        async with Guest.on(daemon) as guest:
            # its rings were never used, and still it is no new driver
            await guest.start()
            again = str(tmp_path / "again")
            assert await cvqd("snapshot", "take", "--config", config, again) == 0
            assert await cvqd("snapshot", "diff", running_file, again) == 0
        loaded = await daemon.event("snapshot.loaded")
        assert (loaded["digest"], loaded["how"]) == (taken.digest, "operator")


@pytest.mark.timeout(120)
async def test_what_the_instance_cannot_go_on_from_is_refused(tmp_path: Path, capsys: Any) -> None:
    async with running(tmp_path) as daemon:
        file = tmp_path / "bad"
        taken = snapshot_of(TrackedState(MAC), max_pairs=9)
        for data, reason in (
            (b"", "0 bytes are no header"),
            (encode(taken), "pairs: the guest was offered 9, here it is 4"),
            (encode(replace(taken, digest="0" * 16)), "not to 0000000000000000"),
            (bytes(2 << 20), "more than a request may have"),
            (bytes(1 << 20), "does not begin like one"),
        ):
            file.write_bytes(data)
            assert await cvqd("restore", "--config", str(daemon.config), str(file)) == 65
            assert reason in capsys.readouterr().err
        target = tmp_path / "is" / "nowhere"
        async with Guest.on(daemon) as guest:
            await guest.start()
            assert await cvqd("snapshot", "take", "--config", str(daemon.config), str(target)) == 73
        assert f"{target}: No such file" in capsys.readouterr().err
        assert await cvqd("restore", "--config", str(daemon.config), str(target)) == 66
