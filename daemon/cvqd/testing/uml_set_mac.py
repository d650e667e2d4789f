"""Runs inside the guest: time how long setting a network card's MAC address takes.

    python3 -I -S uml_set_mac.py INTERFACE COUNT

Issues SIOCSIFHWADDR (netdevice(7)) COUNT times with two addresses in turn and
prints ``count=… p50_us=… p90_us=… p99_us=… max_us=…``; times are microseconds
of the whole ioctl as the caller sees it.  The same run on a ``dummy``
interface shows what the ioctl costs without a device.
"""

import fcntl
import socket
import struct
import sys
import time

_SIOCSIFHWADDR = 0x8924  # linux/sockios.h
_ARPHRD_ETHER = 1  # linux/if_arp.h


def samples(interface: str, count: int) -> list[int]:
    """Duration of each call in nanoseconds."""
    requests = [
        struct.pack("=16sH14s", interface.encode(), _ARPHRD_ETHER, bytes.fromhex(f"525400c0de{last}"))
        for last in ("01", "02")
    ]
    clock, ioctl = time.perf_counter_ns, fcntl.ioctl
    durations = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        number = any_socket.fileno()
        for turn in range(count):
            request = requests[turn & 1]
            start = clock()
            ioctl(number, _SIOCSIFHWADDR, request)
            durations.append(clock() - start)
    return durations


def main(interface: str, count: int) -> None:
    """Measure and print."""
    ordered = sorted(samples(interface, count))
    points = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
    shown = [f"{name}_us={ordered[int(count * part)] / 1000:.1f}" for name, part in points.items()]
    print(f"count={count}", *shown, f"max_us={ordered[-1] / 1000:.1f}")  # noqa: T201 - its purpose


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
