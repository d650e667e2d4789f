"""``cvqd run``: serve one device until a signal."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from cvqd.errors import CvqdError, most_specific
from cvqd.verbs.failure import exit_code

if TYPE_CHECKING:
    import argparse

    from cvqd.verbs import Verbs


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    run = verbs.add_parser(
        "run",
        help="serve one device until a signal",
        description="Open the configured device, make the vhost-user socket and the control socket, and serve"
        " one front-end after another until a signal arrives. The device stays open all the time, even while"
        " no front-end is connected.\n\n"
        "If the control queue cannot be isolated, the configuration decides; by default the daemon does not"
        " start.",
        epilog="Exit status: 0 a signal ended it; 69 no such device, or it was removed; 71 the system or the"
        " device refused a call; 73 a socket or the state file cannot be made; 75 the device or the state"
        " directory is in use; 77 no permission; 78 the configuration is wrong, or the control queue cannot"
        " be isolated.",
    )
    run.set_defaults(verb=_run)
    run.add_argument("--config", metavar="FILE", required=True, help="configuration of the instance")
    socket = run.add_mutually_exclusive_group()
    socket.add_argument(
        "--socket-path", metavar="PATH", help="socket for the front-end instead of the configured one"
    )
    socket.add_argument(
        "--fd", metavar="N", type=int, help="inherited socket for the front-end, listening or connected"
    )


def _run(options: argparse.Namespace) -> int:
    # signals that ask something of a running daemon must not kill one that starts or ends
    for asks in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(asks, signal.SIG_IGN)

    from cvqd.config import load
    from cvqd.config.device import label

    config = load(options.config)

    import trio

    from cvqd.host import crash
    from cvqd.host.log_sink import Sink
    from cvqd.host.logging import StructuredLog
    from cvqd.service import run

    log = StructuredLog(
        Sink(),
        instance=config.instance,
        device=label(config.device),
        level=config.log.level,
        format=config.log.format,
    )
    crash.explain(log)

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
