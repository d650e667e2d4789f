"""``cvqd probe``: what a device is and where its control queue can live."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from cvqd.errors import CvqdError, UnavailableError, most_specific
from cvqd.verbs.failure import report
from cvqd.verbs.shown import show

if TYPE_CHECKING:
    import argparse

    from cvqd.config import DeviceConfig
    from cvqd.verbs import Verbs


_BUSY: Final = 75


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    probe = verbs.add_parser(
        "probe",
        help="show a device and where its control queue can live; resets the device",
        description="Open a device and show its features, which of them a guest is not offered and why, its"
        " virtqueue groups, and whether the control queue can have an address space of its own. Without"
        " DEVICE, show every vhost-vdpa device of this machine, with --json as a list.\n\n"
        "A probe resets the device. A device that is in use is left alone.",
        epilog="Exit status: 0 every device is shown; 69 no such device; 75 it is in use; 77 no permission;"
        " 78 it is not a vhost-vdpa network device, or the configuration is wrong.",
    )
    probe.set_defaults(verb=_probe)
    which = probe.add_mutually_exclusive_group()
    which.add_argument(
        "device", metavar="DEVICE", nargs="?", help="node such as /dev/vhost-vdpa-0 or name such as vdpa0"
    )
    which.add_argument("--config", metavar="FILE", help="the device of this configuration")
    which.add_argument("--simulator", action="store_true", help="the embedded device")
    probe.add_argument("--json", action="store_true", help="show it as JSON")


def _probe(options: argparse.Namespace) -> int:
    devices, several = _probed(options)

    import trio

    from cvqd.config.device import label
    from cvqd.host.log_sink import Sink
    from cvqd.host.logging import StructuredLog
    from cvqd.service import probe

    if devices and not options.simulator:
        print("cvqd: a probe resets the device", file=sys.stderr)
    found: list[Any] = []
    code = 0
    for device in devices:
        try:
            log = StructuredLog(Sink(), instance="probe", device=label(device), level="warning")
            found.append(trio.run(probe, device, log))
        except (CvqdError, BaseExceptionGroup) as error:
            code = report(error)
            if (name := _holder(error)) is not None:
                print(f"cvqd: instance {name} has it: cvqd status {name}", file=sys.stderr)
    show(found, as_json=options.json, several=several)
    return code


def _holder(error: BaseException) -> str | None:
    """The running instance that holds the busy device, if we may ask it."""
    from cvqd.client.control import ControlError, ask
    from cvqd.verbs.instances import running

    busy = most_specific(error)
    if not isinstance(busy, UnavailableError) or busy.exit_code != _BUSY:
        return None
    for path in running():
        try:
            status = ask(path, "status", timeout=1.0)
        except ControlError:
            continue
        if status["device"]["path"] == busy.path:
            return str(status["instance"])
    return None


def _probed(options: argparse.Namespace) -> tuple[list[DeviceConfig], bool]:
    """Devices to probe, and whether the answer is a list."""
    if options.config:
        from cvqd.config import load

        return [load(options.config).device], False
    if options.simulator:
        from cvqd.simulator.spec import SimulatorSpec

        return [SimulatorSpec()], False
    from cvqd.config.device import CharDevice
    from cvqd.host.vdpa_node import list_nodes

    if options.device:
        name = options.device
        return [CharDevice(path=name) if "/" in name else CharDevice(vdpa=name)], False
    nodes = list_nodes()
    if not nodes:
        print(
            "cvqd: this machine has no vhost-vdpa device; --simulator probes the embedded one",
            file=sys.stderr,
        )
    # by name: a device bound to another driver has no node, and opening it says so
    return [CharDevice(vdpa=node.name) for node in nodes], True
