"""The shipped front-end: one method per vhost-user request, and the back-end's own requests.

Sending messages and receiving replies is in ``frontend_connection``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from typing import TYPE_CHECKING

import trio

from cvqd.testing.frontend_connection import FrontEndConnection, FrontEndError
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.vhost_user import HEADER, BackRequest, FrontRequest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from cvqd.wire.split_ring import RingAddresses
    from cvqd.wire.vhost_user_payloads import RegionDescription


class FrontEnd(FrontEndConnection):
    """One session; a setter waits for its acknowledgement wherever REPLY_ACK was negotiated."""

    def __init__(self, stream: socket.socket) -> None:
        """Take over a connected stream socket."""
        super().__init__(stream)
        self._channel: trio.lowlevel.FdStream | None = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        if self._channel is not None:
            with trio.CancelScope(shield=True):
                await self._channel.aclose()

    async def _get(self, request: FrontRequest) -> int:
        return payloads.decode_u64(request.name, await self.request(request))

    async def _state(self, request: FrontRequest, index: int, num: int) -> None:
        await self.request(request, payloads.VringState(index, num).encode())

    async def _ring_descriptor(self, request: FrontRequest, index: int, fd: int | None) -> None:
        payload = payloads.VringDescriptor(index, present=fd is not None).encode()
        await self.request(request, payload, () if fd is None else (fd,))

    async def get_features(self) -> int:
        """Feature word, bit 30 included."""
        return await self._get(FrontRequest.GET_FEATURES)

    async def set_features(self, features: int, *, need_reply: bool | None = None) -> None:
        """Acknowledge features; the word is sent unchanged."""
        await self.request(FrontRequest.SET_FEATURES, payloads.encode_u64(features), need_reply=need_reply)

    async def set_owner(self) -> None:
        """Start of a session, for back-ends that care."""
        await self.request(FrontRequest.SET_OWNER)

    async def get_protocol_features(self) -> int:
        """Protocol feature word."""
        return await self._get(FrontRequest.GET_PROTOCOL_FEATURES)

    async def set_protocol_features(self, features: int) -> None:
        """Acknowledge protocol features; with REPLY_ACK setters wait for answers from here on."""
        await self.request(FrontRequest.SET_PROTOCOL_FEATURES, payloads.encode_u64(features))

    async def get_queue_num(self) -> int:
        """Number of rings."""
        return await self._get(FrontRequest.GET_QUEUE_NUM)

    async def get_max_mem_slots(self) -> int:
        """Number of regions that ADD_MEM_REG may make."""
        return await self._get(FrontRequest.GET_MAX_MEM_SLOTS)

    async def set_mem_table(self, regions: Iterable[tuple[RegionDescription, int]]) -> None:
        """Regions with their descriptors."""
        table = tuple(regions)
        payload = payloads.encode_memory_table(tuple(region for region, _ in table))
        await self.request(FrontRequest.SET_MEM_TABLE, payload, [fd for _, fd in table])

    async def add_mem_reg(self, region: RegionDescription, fd: int) -> None:
        """One more region."""
        await self.request(FrontRequest.ADD_MEM_REG, region.encode_single(), [fd])

    async def rem_mem_reg(self, region: RegionDescription) -> None:
        """One region less."""
        await self.request(FrontRequest.REM_MEM_REG, region.encode_single())

    async def set_vring_num(self, index: int, num: int) -> None:
        """Ring size."""
        await self._state(FrontRequest.SET_VRING_NUM, index, num)

    async def set_vring_base(self, index: int, base: int) -> None:
        """Next available index."""
        await self._state(FrontRequest.SET_VRING_BASE, index, base)

    async def set_vring_addr(self, index: int, addresses: RingAddresses) -> None:
        """Ring addresses, the front-end's own."""
        payload = payloads.VringAddress(index, 0, addresses).encode()
        await self.request(FrontRequest.SET_VRING_ADDR, payload)

    async def set_vring_kick(self, index: int, fd: int | None) -> None:
        """Kick descriptor; None says that the back-end should poll."""
        await self._ring_descriptor(FrontRequest.SET_VRING_KICK, index, fd)

    async def set_vring_call(self, index: int, fd: int | None) -> None:
        """Call descriptor; None says that the guest polls."""
        await self._ring_descriptor(FrontRequest.SET_VRING_CALL, index, fd)

    async def vring_kick(self, index: int) -> None:
        """A kick in-band."""
        await self._state(FrontRequest.VRING_KICK, index, 0)

    async def set_vring_err(self, index: int, fd: int | None) -> None:
        """Error descriptor."""
        await self._ring_descriptor(FrontRequest.SET_VRING_ERR, index, fd)

    async def set_vring_enable(self, index: int, *, enable: bool) -> None:
        """Let a ring run, or stop it."""
        await self._state(FrontRequest.SET_VRING_ENABLE, index, int(enable))

    async def get_vring_base(self, index: int) -> int:
        """Stop a ring; the index to go on from."""
        request = FrontRequest.GET_VRING_BASE
        reply = await self.request(request, payloads.VringState(index, 0).encode())
        return payloads.decode_vring_state(request.name, reply).num

    async def get_config(self, offset: int, size: int) -> bytes:
        """Configuration space; FrontEndError where the back-end has none there."""
        request = FrontRequest.GET_CONFIG
        reply = await self.request(request, payloads.ConfigAccess(offset, 0, bytes(size)).encode())
        if not reply:
            raise FrontEndError("GET_CONFIG was refused")
        return payloads.decode_config(request.name, reply).data

    async def set_config(self, offset: int, data: bytes, flags: int = 0) -> None:
        """Write configuration space."""
        await self.request(FrontRequest.SET_CONFIG, payloads.ConfigAccess(offset, flags, data).encode())

    async def get_status(self) -> int:
        """Device status byte."""
        return await self._get(FrontRequest.GET_STATUS)

    async def set_status(self, status: int) -> None:
        """Device status byte; 0 resets."""
        await self.request(FrontRequest.SET_STATUS, payloads.encode_u64(status))

    async def reset_device(self) -> None:
        """RESET_DEVICE."""
        await self.request(FrontRequest.RESET_DEVICE)

    async def set_device_state_fd(self, direction: payloads.TransferDirection, fd: int) -> None:
        """SET_DEVICE_STATE_FD; FrontEndError unless the back-end uses this descriptor."""
        request = FrontRequest.SET_DEVICE_STATE_FD
        reply = await self.request(request, payloads.encode_device_state(direction), [fd])
        if payloads.decode_u64(request.name, reply) != 0x100:
            raise FrontEndError("SET_DEVICE_STATE_FD was refused")

    async def check_device_state(self) -> None:
        """CHECK_DEVICE_STATE; FrontEndError if the state did not arrive."""
        if await self._get(FrontRequest.CHECK_DEVICE_STATE):
            raise FrontEndError("the state was refused")

    async def save_state(self, *, capacity: int | None = None) -> bytes:
        """The device's state, in crosvm's order; ``capacity`` is the pipe's, in bytes."""
        ours, theirs = _pipe(capacity)
        async with trio.lowlevel.FdStream(ours) as pipe:
            try:
                await self.set_device_state_fd(payloads.TransferDirection.SAVE, theirs)
            finally:
                os.close(theirs)
            data = b"".join([part async for part in pipe])
        await self.check_device_state()
        return data

    async def load_state(self, data: bytes, *, capacity: int | None = None) -> None:
        """Give the device a state, in crosvm's order; ``capacity`` is the pipe's, in bytes."""
        theirs, ours = _pipe(capacity)
        async with trio.lowlevel.FdStream(ours) as pipe:
            try:
                await self.set_device_state_fd(payloads.TransferDirection.LOAD, theirs)
            finally:
                os.close(theirs)
            with contextlib.suppress(trio.BrokenResourceError):
                # a back-end that stops reading says so when it is asked
                await pipe.send_all(data)
        await self.check_device_state()

    # the back-end's own requests

    async def open_channel(self, *, pipe: bool = False) -> None:
        """SET_BACKEND_REQ_FD with a socket, or the writing end of a pipe as virtio_uml does."""
        if pipe:
            ours, theirs = os.pipe2(os.O_CLOEXEC)
        else:
            ours, theirs = (end.detach() for end in socket.socketpair())
        self._channel = trio.lowlevel.FdStream(ours)
        try:
            await self.request(FrontRequest.SET_BACKEND_REQ_FD, b"", [theirs])
        finally:
            os.close(theirs)

    async def backend_request(self) -> BackRequest:
        """Next request on the channel, which must be one without a payload that wants no reply."""
        number, payload = await self._backend_message()
        if payload:
            raise FrontEndError(f"back-end request {number} with {len(payload)} bytes")
        return BackRequest(number)

    async def backend_call(self) -> int:
        """Next request on the channel, which must be VRING_CALL; the ring's index."""
        number, payload = await self._backend_message()
        if number != BackRequest.VRING_CALL:
            raise FrontEndError(f"back-end request {number} where a call was due")
        return payloads.decode_vring_state("VRING_CALL", payload).index

    async def _backend_message(self) -> tuple[int, bytes]:
        number, flags, size = HEADER.unpack(await self._read_channel(HEADER.size))
        if flags != 1:
            raise FrontEndError(f"back-end request {number} with flags {flags:#x}")
        return number, await self._read_channel(size)

    async def _read_channel(self, size: int) -> bytes:
        assert self._channel is not None, "open_channel comes first"
        data = b""
        while len(data) < size:
            part = await self._channel.receive_some(size - len(data))
            if not part:
                raise FrontEndError("the back-end closed its channel")
            data += part
        return data


def _pipe(capacity: int | None) -> tuple[int, int]:
    ends = os.pipe2(os.O_CLOEXEC)
    if capacity is not None:
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, capacity)
    return ends
