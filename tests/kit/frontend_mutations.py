"""Random front-ends at full speed, against the whole back-end: socket, session, owner, simulator.

A *case* is one message with its descriptors.  A session begins as what a real
front-end says (``testing.sequences``), over and over, and is then changed at
random: bytes, lengths, order, descriptors of every kind.  It is a list of
lines, so that one with a finding can be kept as it is (``frontend/corpus``):

    say 0100000001000000 00000000 eventfd memory:4096     bytes in hex, then descriptors by name
    kick 4                                                the guest rings, after putting a command there
    scribble 64 ffff                                      the guest writes there, from the start of its memory
    read                                                  the front-end takes the replies that have come

The messages are made in ``random_frontend``; what has to come of them is here.
"""

from __future__ import annotations

import array
import gc
import random
import socket
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio
import trio.testing

from cvqd.testing.sequences import INBAND, ORDERS
from cvqd.wire.vhost_user import HEADER, MAX_PAYLOAD, PROTOCOL_FEATURES_SERVED, REPLY_FLAGS, ProtocolFeature
from cvqd.wire.virtio import Feature
from kit.named_descriptors import Files
from kit.random_frontend import Guest, Line, Writer
from kit.rig import CONTROL_FEATURES, Rig, open_descriptors, settled

if TYPE_CHECKING:
    from collections.abc import Iterator

#: cases from one seed
BLOCK: Final = 2000
#: what a session may say before its front-end reads replies: fewer bytes than a socket holds
UNREAD: Final = 20
#: events that no front-end may cause: the device, or the daemon, would be blamed for what it did not do
NEVER: Final = ("device.failed", "device.fault", "device.needs_reset", "service.failed")


class FindingError(AssertionError):
    """What went wrong; notes say how to see it again."""


class Speaker:
    """One front-end's connection; it reads what it is told, and believes nothing."""

    def __init__(self, path: str) -> None:
        self._stream = socket.socket(socket.AF_UNIX)
        self._stream.connect(path)
        self._stream.setblocking(False)  # noqa: FBT003 - the socket module's own argument
        self._read = b""
        self._said: set[int] = set()
        self.replies = 0

    def say(self, data: bytes, fds: list[int]) -> bool:
        """Whether the back-end may hear more."""
        self._said.add(int.from_bytes(data[:4], "little"))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
        try:
            return self._stream.sendmsg([data], rights) == len(data)
        except OSError:
            return False

    def read(self) -> bool:
        """Check what came; whether the back-end is still there."""
        try:
            while part := self._stream.recv(1 << 16):
                self._read += part
        except BlockingIOError:
            alive = True
        except OSError:
            alive = False
        else:
            alive = False
        while len(self._read) >= HEADER.size:
            _, flags, size = HEADER.unpack(self._read[: HEADER.size])
            if flags != REPLY_FLAGS or size > MAX_PAYLOAD:
                raise FindingError(f"a reply with flags {flags:#x} and {size} bytes")
            if len(self._read) < HEADER.size + size:
                break
            self._read = self._read[HEADER.size + size :]
            self.replies += 1
        return alive

    def close(self) -> None:
        """Hang up."""
        self._stream.close()


class World:
    """One instance and the front-ends that it meets one after the other."""

    def __init__(self, rig: Rig, guest: Guest) -> None:
        self.rig = rig
        self.guest = guest
        self.outcomes: Counter[str] = Counter()

    async def session(self, lines: list[Line], *, fresh: bool = True) -> None:
        """Play one session and see that nothing of it stays."""
        if fresh:
            self.guest.restart()
        await settled()
        self.rig.log.events.clear()
        before = open_descriptors()
        files = Files(self.guest)
        speaker = Speaker(self.rig.socket)
        try:
            await self._play(lines, files, speaker)
            await settled()
            speaker.read()
        finally:
            speaker.close()
            files.close()
        for _ in range(100):
            await settled()
            if not self.rig.backend.connected:
                break
            # something waits for a deadline
            await trio.sleep(0.1)
        self._check(before)
        self.outcomes["replies"] += speaker.replies

    async def _play(self, lines: list[Line], files: Files, speaker: Speaker) -> None:
        unread = 0
        for number, (verb, *words) in enumerate(lines):
            match verb:
                case "say":
                    self.outcomes["cases"] += 1
                    if not speaker.say(bytes.fromhex(words[0]), [files[name] for name in words[1:]]):
                        return
                    unread += 1
                case "kick":
                    self.guest.kick(int(words[0]), number)
                    unread = UNREAD
                case "scribble":
                    self.guest.memory.write(
                        self.guest.memory.guest_address + int(words[0]), bytes.fromhex(words[1])
                    )
                case "read":
                    unread = UNREAD
            if unread >= UNREAD:
                unread = 0
                await settled()
                if self.rig.owner.running:
                    self.outcomes["running"] += 1
                if not speaker.read():
                    return

    def _check(self, descriptors: int) -> None:
        rig = self.rig
        found = [event for event in rig.log.events if event.name in NEVER]
        for wrong, what in (
            (rig.backend.connected, "the back-end does not come to an end"),
            (rig.owner.running, "the device runs without a front-end"),
            (len(rig.owner.memory.space), "memory of a front-end that left"),
            (rig.owner.current.mappings.mapped(0), "memory that the device still sees"),
            (rig.device.net.negotiation.driver_ok, "the device was not reset"),
            (open_descriptors() - descriptors, "descriptors were left or lost"),
            (found, "the device is blamed"),
        ):
            if wrong:
                raise FindingError(f"{what}: {wrong}")
        names = Counter(event.name for event in rig.log.events)
        self.outcomes["refused"] += names["frontend.refused"]
        self.outcomes["started"] += names["device.started"]
        self.outcomes["commands"] += names["cvq.command.acked"]
        self.outcomes["sessions"] += 1


def run_block(seed: int, block: int, cases: int = BLOCK) -> Counter[str]:
    """Outcomes of one block; a FindingError, or whatever was raised, comes with its session."""
    roll = random.Random(f"{seed}/{block}")

    async def main() -> Counter[str]:
        with tempfile.TemporaryDirectory(prefix="cvqd") as name:
            inband = roll.random() < 0.2
            async with Rig.opened(Path(name), offers_inband=inband) as rig:
                kept = roll.choice((0, CONTROL_FEATURES))
                order_name = roll.choice(list(ORDERS))
                features = rig.features & ~(kept if order_name == "qemu-net" else 0)
                if roll.random() < 0.3:
                    features &= ~(1 << roll.randrange(40)) | Feature.VERSION_1.mask
                word = PROTOCOL_FEATURES_SERVED | (ProtocolFeature.INBAND_NOTIFICATIONS.mask if inband else 0)
                with Guest(features, rig.owner.current.offer.max_pairs) as guest:
                    world = World(rig, guest)
                    writer = Writer(roll, guest, INBAND if inband else ORDERS[order_name], word)
                    while world.outcomes["cases"] < cases:
                        lines = writer.lines()
                        with noted(lines):
                            await world.session(lines, fresh=roll.random() < 0.9)
                    return world.outcomes

    return in_time_of_its_own(main, f"{seed}/{block}")


def run_lines(text: str) -> Counter[str]:
    """Outcomes of a session that was written down."""

    async def main() -> Counter[str]:
        with tempfile.TemporaryDirectory(prefix="cvqd") as name:
            async with Rig.opened(Path(name)) as rig:
                with Guest(rig.features, rig.owner.current.offer.max_pairs) as guest:
                    world = World(rig, guest)
                    lines = [line.partition("#")[0].split() for line in text.splitlines()]
                    await world.session([tuple(words) for words in lines if words])
                    return world.outcomes

    return in_time_of_its_own(main, "kept")


@contextmanager
def noted(lines: list[Line]) -> Iterator[None]:
    """Say with an exception what was said before it."""
    try:
        yield
    except Exception as error:
        error.add_note("the session, for tests/frontend/corpus:\n" + "\n".join(map(" ".join, lines)))
        raise


def in_time_of_its_own(main: Any, seed: str) -> Counter[str]:
    """Run on a clock that jumps, with tasks in the same order for the same seed."""
    # what an instance before this one left to the collector is not to be found missing later
    gc.collect()
    scheduling = trio._core._run
    before = scheduling._ALLOW_DETERMINISTIC_SCHEDULING, scheduling._r
    scheduling._ALLOW_DETERMINISTIC_SCHEDULING, scheduling._r = True, random.Random(seed)
    try:
        result: Counter[str] = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        return result
    finally:
        scheduling._ALLOW_DETERMINISTIC_SCHEDULING, scheduling._r = before
