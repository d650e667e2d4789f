"""Inside the test machine: send frames on given queues and print those that did not come back.

    python3 frames_back.py INTERFACE PRIORITY:HEADER...

HEADER is everything up to the Ethernet type in hex; ``mqprio`` maps the
priority to a transmit queue (tc-mqprio(8)).  The other end sends every frame
back, on whichever receive queue, so the order says nothing.
"""

from __future__ import annotations

import os
import socket
import sys

ETH_P_ALL = 3  # linux/if_ether.h
OUTGOING = 4  # linux/if_packet.h, PACKET_OUTGOING: our own transmission, seen again
PATIENCE = 10.0


def main(interface: str, *frames: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as link:
        link.bind((interface, ETH_P_ALL))
        link.settimeout(PATIENCE)
        missing: dict[bytes, str] = {}
        for frame in frames:
            priority, _, header = frame.partition(":")
            token = os.urandom(16)
            missing[token] = frame
            link.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, int(priority))
            # 0x88b5: IEEE 802 local experimental
            link.send((bytes.fromhex(header) + b"\x88\xb5" + token).ljust(60, b"\0"))
        try:
            while missing:
                data, sender = link.recvfrom(2048)
                if sender[2] != OUTGOING:
                    for token in [token for token in missing if token in data]:
                        del missing[token]
        except TimeoutError:
            print(*missing.values())  # noqa: T201 -- its purpose


if __name__ == "__main__":
    main(*sys.argv[1:])
