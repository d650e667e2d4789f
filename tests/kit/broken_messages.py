"""Messages that break the protocol, and the reason that each ends the connection with."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.virtio import Feature
from kit.hostile_frontend import BIT_30, Descriptors, R, ring_fd, send, single, state, table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cvqd.testing.frontend import FrontEnd


def megabyte(files: Descriptors) -> int:
    return files.memory(1 << 20)


M = 1 << 20
E, P = Descriptors.eventfd, Descriptors.pipe_reader
REFUSED: dict[str, tuple[Callable[[FrontEnd, Descriptors], Awaitable[None]], str, str]] = {
    # wrong numbers of descriptors
    "a descriptor with a plain question": (
        send(R.GET_FEATURES, b"", E),
        "GET_FEATURES",
        "1 descriptors, 0 to 0",
    ),
    "two kicks": (send(R.SET_VRING_KICK, ring_fd(0), E, E), "SET_VRING_KICK", "2 descriptors, 0 to 1"),
    "a kick that is not there": (send(R.SET_VRING_KICK, ring_fd(0)), "SET_VRING_KICK", "the payload says 1"),
    "a kick that should not be": (
        send(R.SET_VRING_KICK, ring_fd(0, present=False), E),
        "SET_VRING_KICK",
        "the payload says 0",
    ),
    "a ring to be polled": (send(R.SET_VRING_KICK, ring_fd(0, present=False)), "SET_VRING_KICK", "polled"),
    "a table without descriptors": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0))),
        "SET_MEM_TABLE",
        "0 descriptors for 1",
    ),
    "a table with one too many": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0)), megabyte, megabyte),
        "SET_MEM_TABLE",
        "2 descriptors for 1",
    ),
    "64 descriptors": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0)), *[E] * 64),
        "SET_MEM_TABLE",
        "64 descriptors for 1",
    ),
    "more descriptors than a message may carry": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0)), *[E] * 65),
        "header",
        "more descriptors than 64",
    ),
    "a region without its file": (send(R.ADD_MEM_REG, single(0, M, 0, 0)), "ADD_MEM_REG", "0 descriptors"),
    "a channel without a descriptor": (send(R.SET_BACKEND_REQ_FD), "SET_BACKEND_REQ_FD", "0 descriptors"),
    # wrong kinds of descriptors
    "a kick that is a pipe": (send(R.SET_VRING_KICK, ring_fd(0), P), "SET_VRING_KICK", "eventfd, not a pipe"),
    "a kick that is a socket": (
        send(R.SET_VRING_KICK, ring_fd(0), Descriptors.socket),
        "SET_VRING_KICK",
        "eventfd, not a socket",
    ),
    "a kick that is memory": (send(R.SET_VRING_KICK, ring_fd(0), megabyte), "SET_VRING_KICK", "not a file"),
    "a call that is memory": (send(R.SET_VRING_CALL, ring_fd(0), megabyte), "SET_VRING_CALL", "not a file"),
    "a call that is a directory": (
        send(R.SET_VRING_CALL, ring_fd(0), Descriptors.directory),
        "SET_VRING_CALL",
        "not a other",
    ),
    "a channel that is an eventfd": (
        send(R.SET_BACKEND_REQ_FD, b"", E),
        "SET_BACKEND_REQ_FD",
        "a socket or a pipe",
    ),
    # memory
    "an empty region": (send(R.ADD_MEM_REG, single(0, 0, 0, 0), megabyte), "ADD_MEM_REG", "no bytes"),
    "guest addresses that wrap": (
        send(R.ADD_MEM_REG, single(2**64 - 4096, 2 * 4096, 0, 0), megabyte),
        "ADD_MEM_REG",
        "guest addresses of region",
    ),
    "user addresses that wrap": (
        send(R.ADD_MEM_REG, single(0, M, 2**64 - 4096, 0), megabyte),
        "ADD_MEM_REG",
        "user addresses of region",
    ),
    "an offset that wraps": (
        send(R.ADD_MEM_REG, single(0, M, 0, 2**64 - 4096), megabyte),
        "ADD_MEM_REG",
        "file offsets of region",
    ),
    "regions that overlap": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0), (M - 4096, M, 8 * M, 0)), megabyte, megabyte),
        "SET_MEM_TABLE",
        "regions at guest addresses 0x0 and 0xff000 overlap",
    ),
    "regions that overlap for the front-end": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0), (8 * M, M, M - 1, 0)), megabyte, megabyte),
        "SET_MEM_TABLE",
        "user addresses 0x0 and 0xfffff overlap",
    ),
    "the same region twice": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0), (0, M, 0, 0)), megabyte, megabyte),
        "SET_MEM_TABLE",
        "overlap",
    ),
    "a table above eight regions": (
        send(R.SET_MEM_TABLE, table(*((i * M, M, i * M, 0) for i in range(33))), *[megabyte] * 33),
        "SET_MEM_TABLE",
        "33 regions, at most 32",
    ),
    "a table that claims 2^32-1 regions": (
        send(R.SET_MEM_TABLE, struct.pack("=II", 2**32 - 1, 0)),
        "SET_MEM_TABLE",
        "more than one message can carry",
    ),
    "a table cut short": (
        send(R.SET_MEM_TABLE, table((0, M, 0, 0), (M, M, M, 0))[:-1], megabyte, megabyte),
        "SET_MEM_TABLE",
        "71 bytes, 72 are needed",
    ),
    "a file shorter than its region": (
        send(R.ADD_MEM_REG, single(0, M + 1, 0, 0), megabyte),
        "ADD_MEM_REG",
        "memory file has 1048576 bytes",
    ),
    "a file shorter than region and offset": (
        send(R.ADD_MEM_REG, single(0, M, 0, 4096), megabyte),
        "ADD_MEM_REG",
        "memory file has 1048576 bytes",
    ),
    "a file far shorter than its region": (
        send(R.ADD_MEM_REG, single(2**63, 2**63, 2**63, 0), megabyte),
        "ADD_MEM_REG",
        "memory file has 1048576 bytes",
    ),
    "memory larger than any address space": (
        send(R.ADD_MEM_REG, single(2**62, 2**60, 2**62, 0), lambda files: files.memory(2**60)),
        "ADD_MEM_REG",
        "cannot be mapped",
    ),
    "memory that is an eventfd": (send(R.ADD_MEM_REG, single(0, M, 0, 0), E), "ADD_MEM_REG", "has 0 bytes"),
    "memory that is a directory": (
        send(R.ADD_MEM_REG, single(0, 1, 0, 0), Descriptors.directory),
        "ADD_MEM_REG",
        "cannot be mapped",
    ),
    "memory that is a character device": (
        send(R.ADD_MEM_REG, single(0, M, 0, 0), Descriptors.zero),
        "ADD_MEM_REG",
        "has 0 bytes",
    ),
    "memory that may only be read": (
        send(R.ADD_MEM_REG, single(0, M, 0, 0), lambda files: files.read_only(M)),
        "ADD_MEM_REG",
        "cannot be mapped",
    ),
    "a region that was never added": (
        send(R.REM_MEM_REG, single(0, M, 0, 0)),
        "REM_MEM_REG",
        "no such region",
    ),
    # rings
    "a ring of 0": (send(R.SET_VRING_NUM, state(0, 0)), "SET_VRING_NUM", "size 0"),
    "a ring of 3": (send(R.SET_VRING_NUM, state(0, 3)), "SET_VRING_NUM", "not a power of two"),
    "a ring of 65536": (send(R.SET_VRING_NUM, state(0, 65536)), "SET_VRING_NUM", "maximum of 256"),
    "a ring of 2^31": (send(R.SET_VRING_NUM, state(0, 2**31)), "SET_VRING_NUM", "maximum of 256"),
    "a ring that is not there": (send(R.SET_VRING_NUM, state(5, 256)), "SET_VRING_NUM", "no ring 5"),
    "a ring far away": (send(R.GET_VRING_BASE, state(2**32 - 1, 0)), "GET_VRING_BASE", "no ring 4294967295"),
    "a kick for ring 255": (send(R.SET_VRING_KICK, ring_fd(255), E), "SET_VRING_KICK", "no ring 255"),
    "half enabled": (send(R.SET_VRING_ENABLE, state(0, 2)), "SET_VRING_ENABLE", "neither 0 nor 1"),
    # the rest
    "features nobody offered": (
        send(R.SET_FEATURES, payloads.encode_u64(BIT_30 | Feature.SR_IOV.mask)),
        "SET_FEATURES",
        "not offered: SR_IOV",
    ),
    "ACCESS_PLATFORM": (
        send(R.SET_FEATURES, payloads.encode_u64(Feature.ACCESS_PLATFORM.mask)),
        "SET_FEATURES",
        "not offered: ACCESS_PLATFORM",
    ),
    "all features": (send(R.SET_FEATURES, payloads.encode_u64(2**64 - 1)), "SET_FEATURES", "not offered"),
    "all protocol features": (
        send(R.SET_PROTOCOL_FEATURES, payloads.encode_u64(2**64 - 1)),
        "SET_PROTOCOL_FEATURES",
        "not offered",
    ),
    "a status of nine bits": (send(R.SET_STATUS, payloads.encode_u64(0x100)), "SET_STATUS", "no byte"),
    "an MTU cut short": (send(R.NET_SET_MTU, bytes(7)), "NET_SET_MTU", "was not negotiated"),
    "a number cut short": (send(R.SET_FEATURES, bytes(7)), "SET_FEATURES", "7 bytes, 8 are needed"),
    "configuration of no bytes": (
        send(R.GET_CONFIG, struct.pack("=III", 0, 0, 0)),
        "GET_CONFIG",
        "0 bytes of configuration",
    ),
    "configuration of 2^32-1 bytes": (
        send(R.GET_CONFIG, struct.pack("=III", 0, 2**32 - 1, 0)),
        "GET_CONFIG",
        "4294967295 bytes of configuration",
    ),
    "configuration that lies about its length": (
        send(R.GET_CONFIG, struct.pack("=III", 0, 8, 0) + bytes(4)),
        "GET_CONFIG",
        "16 bytes, 20 are needed",
    ),
    "postcopy": (send(R.POSTCOPY_ADVISE), "POSTCOPY_ADVISE", "not offered and cannot be answered"),
    "an IOTLB message": (send(R.IOTLB_MSG, bytes(32)), "IOTLB_MSG", "not offered"),
    "in-flight memory": (send(R.GET_INFLIGHT_FD, bytes(24)), "GET_INFLIGHT_FD", "not offered"),
}
