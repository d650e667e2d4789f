"""A front-end that breaks the protocol: its descriptors, its messages, and the expected outcome."""

from __future__ import annotations

import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.vhost_user import PROTOCOL_FEATURES_SERVED, FrontRequest, encode_request
from cvqd.wire.vhost_user_payloads import RegionDescription
from cvqd.wire.virtio import Feature
from kit.rig import BROADCAST, MAC_B, Rig, frame, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from cvqd.testing.frontend import FrontEnd

R = FrontRequest
BIT_30 = Feature.PROTOCOL_FEATURES.mask


@asynccontextmanager
async def talking(rig: Rig, *, without: int = 0) -> AsyncIterator[FrontEnd]:
    """A connection with every protocol feature negotiated."""
    async with await rig.connect() as front_end:
        await front_end.get_features()
        await front_end.set_protocol_features(PROTOCOL_FEATURES_SERVED & ~without)
        yield front_end


async def refused(rig: Rig, front_end: FrontEnd) -> dict[str, Any]:
    """What was said when the connection ended."""
    with trio.fail_after(5):
        await front_end.hung_up()
    await settled()
    (event,) = rig.log.of("frontend.refused")
    assert rig.log.of("frontend.disconnected")[-1]["reason"] == f"{event['request']}: {event['reason']}"
    assert not rig.backend.connected
    assert not rig.owner.running
    assert not len(rig.owner.memory.space)
    assert not rig.owner.current.mappings.mapped(0)
    return event


async def next_is_served(rig: Rig) -> None:
    """Fully: commands, data, a stop."""
    async with rig.guest("uml") as guest:
        await guest.start()
        await guest.set_mac(MAC_B)
        guest.driver.fill()
        assert await guest.echo(frame(BROADCAST))
        await guest.stop()


class Descriptors:
    """Files of every kind; closed together."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: list[int] = []

    def _keep(self, *fds: int) -> int:
        self._open += fds
        return fds[0]

    def eventfd(self) -> int:
        return self._keep(os.eventfd(0, os.EFD_CLOEXEC))

    def memory(self, size: int) -> int:
        fd = self._keep(os.memfd_create("guest", os.MFD_CLOEXEC))
        os.ftruncate(fd, size)
        return fd

    def pipe_reader(self) -> int:
        return self._keep(*os.pipe2(os.O_CLOEXEC))

    def pipe_writer(self) -> int:
        return self._keep(*reversed(os.pipe2(os.O_CLOEXEC)))

    def socket(self, kind: int = socket.SOCK_STREAM) -> int:
        return self._keep(socket.socket(socket.AF_UNIX, kind).detach())

    def half_closed(self) -> int:
        ours, theirs = socket.socketpair()
        theirs.close()
        return self._keep(ours.detach())

    def directory(self) -> int:
        return self._keep(os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC))

    def zero(self) -> int:
        return self._keep(os.open("/dev/zero", os.O_RDWR | os.O_CLOEXEC))

    def read_only(self, size: int) -> int:
        path = self._directory / "memory"
        path.write_bytes(bytes(size))
        return self._keep(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def close(self) -> None:
        for fd in self._open:
            os.close(fd)


def send(
    request: FrontRequest,
    payload: bytes = b"",
    *makers: Callable[[Descriptors], int],
    need_reply: bool = False,
) -> Callable[[FrontEnd, Descriptors], Awaitable[None]]:
    async def speak(front_end: FrontEnd, files: Descriptors) -> None:
        data = encode_request(request, payload, need_reply=need_reply)
        await front_end.send_raw(data, b"", [make(files) for make in makers])

    return speak


def state(index: int, num: int) -> bytes:
    return payloads.VringState(index, num).encode()


def ring_fd(index: int, *, present: bool = True) -> bytes:
    return payloads.VringDescriptor(index, present).encode()


def table(*regions: tuple[int, int, int, int]) -> bytes:
    return payloads.encode_memory_table(tuple(RegionDescription(*region) for region in regions))


def single(*region: int) -> bytes:
    return RegionDescription(*region).encode_single()
