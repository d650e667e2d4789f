"""Runs inside the guest: send Ethernet frames and say which of them came back.

On a device whose data path is a loopback a frame returns only if the receive
filter lets it through, so what comes back shows what the device believes.

    python3 -I -S uml_frames.py INTERFACE FRAME...

A FRAME is ``DESTINATION[,vlan=ID][,queue=N]``; for each one a line
``FRAME back`` or ``FRAME lost`` is printed.  After each frame a broadcast,
which every filter accepts unless it was told otherwise, goes out on the same
queue: a queue keeps its order, so once the broadcast is back the frame's fate
is known and nothing has to wait for a clock.  Exit code 1 and
``FRAME unknown`` if even the broadcast does not return.

``queue=N`` sends with priority N; it reaches transmit queue N where an
``mqprio`` qdisc maps it so (tc-mqprio(8)).

Only the standard library, and little of it: modules are slow to load here.
"""

import os
import socket
import struct
import sys

_ETH_P_ALL = 3  # linux/if_ether.h
_TEST_TYPE = 0x88B5  # IEEE 802 local experimental
_VLAN_TYPE = 0x8100
_OUTGOING = 4  # linux/if_packet.h, PACKET_OUTGOING: our own transmission, seen again
BROADCAST = b"\xff" * 6
_PATIENCE = 3.0  # seconds for a broadcast to come back


def frame(destination: bytes, source: bytes, vlan: int | None, token: bytes) -> bytes:
    """A frame of at least 60 bytes that carries ``token``."""
    tag = b"" if vlan is None else struct.pack("!HH", _VLAN_TYPE, vlan)
    return (destination + source + tag + struct.pack("!H", _TEST_TYPE) + token).ljust(60, b"\0")


def came_back(link: socket.socket, source: bytes, wanted: str) -> bool | None:
    """Send one described frame and its broadcast; None if neither returned."""
    address, *options = wanted.split(",")
    settings = dict(option.split("=") for option in options)
    vlan = int(settings["vlan"]) if "vlan" in settings else None
    link.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, int(settings.get("queue", 0)))
    question, ending = os.urandom(16), os.urandom(16)
    link.send(frame(bytes.fromhex(address.replace(":", "")), source, vlan, question))
    link.send(frame(BROADCAST, source, None, ending))
    seen = False
    try:
        while True:
            data, sender = link.recvfrom(2048)
            if sender[2] == _OUTGOING:
                continue
            seen = seen or question in data
            if ending in data:
                return seen
    except TimeoutError:
        return seen or None


def main(interface: str, frames: list[str]) -> int:
    """Exit code of the script."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as link:
        link.bind((interface, _ETH_P_ALL))
        link.settimeout(_PATIENCE)
        source = link.getsockname()[4]
        status = 0
        for wanted in frames:
            answer = came_back(link, source, wanted)
            print(wanted, {True: "back", False: "lost", None: "unknown"}[answer])  # noqa: T201 - its purpose
            status |= answer is None
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
