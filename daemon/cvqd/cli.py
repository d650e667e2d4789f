"""Verbs and exit codes.

Machine output goes to standard output, messages to standard error; exit codes
are those of sysexits.h.  Each verb imports what it needs, so that the short
ones stay short: only ``run``, ``probe`` and ``demo`` load the event loop.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cvqd import __version__
from cvqd.errors import ConfigError, CvqdError, leaves, most_specific

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cvqd.config import DeviceConfig

EX_USAGE: Final = 64
EX_SOFTWARE: Final = 70
EX_OSERR: Final = 71

#: where control sockets are unless a configuration says otherwise
CONTROL_DIRECTORY: Final = "/run/cvqd"

#: vhost-user's back-end conventions: what ``--print-capabilities`` prints
CAPABILITIES: Final = {"type": "net", "features": []}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Usage is 64 in sysexits.h, argparse's own 2 is a shell's."""
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the process's exit code."""
    try:
        code = _dispatch(_parser().parse_args(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever read our output has read enough; keep the interpreter from flushing into the void
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_OSERR
    except KeyboardInterrupt:
        return 130
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 -- the process ends here
        return report(error)
    return code


def _dispatch(options: argparse.Namespace) -> int:
    if options.print_capabilities:
        print(json.dumps(CAPABILITIES))
        return 0
    if options.verb is None:
        _parser().error("a verb is missing; see --help")
    verb: Callable[[argparse.Namespace], int] = options.verb
    return verb(options)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="cvqd", description="Own a vhost-vdpa network device for a virtual machine.")
    parser.add_argument("--version", action="version", version=f"cvqd {__version__}")
    parser.add_argument(
        "--print-capabilities",
        action="store_true",
        help="what a VMM may expect, as JSON (vhost-user convention)",
    )
    parser.set_defaults(verb=None)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", parser_class=_Parser)

    run = verbs.add_parser("run", help="serve one device until a signal")
    run.set_defaults(verb=_run)
    run.add_argument("--config", metavar="FILE", required=True)
    socket = run.add_mutually_exclusive_group()
    socket.add_argument(
        "--socket-path", metavar="PATH", help="vhost-user socket instead of the configured one"
    )
    socket.add_argument(
        "--fd", metavar="N", type=int, help="inherited vhost-user socket, listening or connected"
    )

    check = verbs.add_parser("check-config", help="report every problem of configuration files")
    check.set_defaults(verb=_check_config)
    check.add_argument("files", metavar="FILE", nargs="+")

    probe = verbs.add_parser(
        "probe", help="show a device and where its control queue can live; resets the device"
    )
    probe.set_defaults(verb=_probe)
    which = probe.add_mutually_exclusive_group()
    which.add_argument(
        "device", metavar="DEVICE", nargs="?", help="node such as /dev/vhost-vdpa-0 or name such as vdpa0"
    )
    which.add_argument("--config", metavar="FILE", help="the device of this configuration")
    which.add_argument("--simulator", action="store_true", help="the embedded device")
    probe.add_argument("--json", action="store_true")

    status = verbs.add_parser("status", help="show running instances")
    status.set_defaults(verb=_status)
    whose = status.add_mutually_exclusive_group()
    whose.add_argument("instance", metavar="INSTANCE", nargs="?", help="all instances if left out")
    whose.add_argument("--config", metavar="FILE", help="the instance of this configuration")
    status.add_argument("--json", action="store_true")

    announce = verbs.add_parser(
        "announce", help="ask a running guest to announce itself to its network (gratuitous ARP)"
    )
    announce.set_defaults(verb=_announce)
    who = announce.add_mutually_exclusive_group(required=True)
    who.add_argument("instance", metavar="INSTANCE", nargs="?")
    who.add_argument("--config", metavar="FILE", help="the instance of this configuration")

    demo = verbs.add_parser("demo", help="play a guest's control commands through the simulator")
    demo.set_defaults(verb=_demo)
    return parser


def _run(options: argparse.Namespace) -> int:
    from cvqd.config import load

    # it asks a daemon that is up to reload; one that starts or ends must not be killed by it
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    config = load(options.config)

    import trio

    from cvqd.host.log_sink import Sink
    from cvqd.host.logging import StructuredLog
    from cvqd.service import run

    log = StructuredLog(
        Sink(),
        instance=config.instance,
        device=_label(config.device),
        level=config.log.level,
        format=config.log.format,
    )

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.flush_task)
            await run(config, file=options.config, socket_path=options.socket_path, fd=options.fd, log=log)
            nursery.cancel_scope.cancel()

    try:
        trio.run(serve)
    except (Exception, BaseExceptionGroup) as error:
        blamed = most_specific(error)
        log.emit(
            "service.failed", blame=type(blamed).__name__, reason=str(blamed), exit_code=exit_code(blamed)
        )
        if isinstance(blamed, CvqdError):
            return blamed.exit_code
        raise
    finally:
        log.close()
    return 0


def _check_config(options: argparse.Namespace) -> int:
    from cvqd.config import load

    code = 0
    for file in options.files:
        try:
            load(file)
        except ConfigError as error:
            code = report(error)
    return code


def _probe(options: argparse.Namespace) -> int:
    devices, several = _probed(options)

    import trio

    from cvqd.host.log_sink import Sink
    from cvqd.host.logging import StructuredLog
    from cvqd.service import probe

    print("cvqd: a probe resets the device", file=sys.stderr)
    found: list[Any] = []
    code = 0
    for device in devices:
        try:
            log = StructuredLog(Sink(), instance="probe", device=_label(device), level="warning")
            found.append(trio.run(probe, device, log))
        except (CvqdError, BaseExceptionGroup) as error:
            code = report(error)
    _show(found, as_json=options.json, several=several)
    return code


def _probed(options: argparse.Namespace) -> tuple[list[DeviceConfig], bool]:
    """Devices to probe, and whether the answer is a list."""
    if options.config:
        from cvqd.config import load

        return [load(options.config).device], False
    if options.simulator:
        from cvqd.simulator.spec import SimulatorSpec

        return [SimulatorSpec()], False
    from cvqd.config_device import CharDevice
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
    return [CharDevice(path=node.path) for node in nodes], True


def _status(options: argparse.Namespace) -> int:
    from cvqd.control_client import ControlError, ask

    found: list[Any] = []
    code = 0
    for path in _control_sockets(options):
        try:
            found.append(ask(path, "status"))
        except ControlError as error:
            code = report(error)
    _show(found, as_json=options.json, several=not (options.instance or options.config))
    return code


def _announce(options: argparse.Namespace) -> int:
    from cvqd.control_client import ask

    for path in _control_sockets(options):
        ask(path, "announce")
    return 0


def _control_sockets(options: argparse.Namespace) -> Iterator[str]:
    if options.config:
        from cvqd.config import load

        yield load(options.config).control.socket
    elif options.instance:
        yield f"{CONTROL_DIRECTORY}/{options.instance}.control"
    else:
        try:
            names = sorted(os.listdir(CONTROL_DIRECTORY))  # noqa: PTH208 -- pathlib is 10 ms more to import
        except OSError:
            names = []
        sockets = [f"{CONTROL_DIRECTORY}/{name}" for name in names if name.endswith(".control")]
        if not sockets:
            print(f"cvqd: no instance has a control socket in {CONTROL_DIRECTORY}", file=sys.stderr)
        yield from sockets


def _demo(_options: argparse.Namespace) -> int:
    from cvqd.demo import main as demo

    return demo()


def _show(reports: list[Any], *, as_json: bool, several: bool) -> None:
    if as_json:
        if several or reports:
            print(json.dumps(reports if several else reports[0], indent=2))
        return
    from cvqd.status_text import render

    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        columns = 100
    if reports:
        print("\n\n".join(render(entry, columns) for entry in reports))


def _label(device: DeviceConfig) -> str:
    from cvqd.config_device import label

    return label(device)


def exit_code(blamed: BaseException) -> int:
    """Code of sysexits.h for an error that ends the process."""
    if isinstance(blamed, CvqdError):
        return blamed.exit_code
    return EX_OSERR if isinstance(blamed, OSError) else EX_SOFTWARE


def report(error: BaseException) -> int:
    """Say what went wrong, with a traceback for what nobody foresaw; the exit code."""
    blamed = most_specific(error)
    if not all(isinstance(leaf, CvqdError) for leaf in leaves(error)):
        import traceback

        traceback.print_exception(error)
    elif isinstance(blamed, ConfigError):
        print(blamed, file=sys.stderr)  # its lines begin with the file
    else:
        print(f"cvqd: {blamed}", file=sys.stderr)
    return exit_code(blamed)
