"""``cvqd demo``: a guest, a simulated device and cvqd between them, told step by step.

Everything is real but the hardware: the daemon is a process of its own, the
guest is an unmodified Linux kernel where User Mode Linux is installed, and each
line with a tick is a check that can fail.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from cvqd.demo.driver_player import DriverPlayer
from cvqd.demo.screen import Screen
from cvqd.demo.story import tell
from cvqd.demo.uml_player import UmlPlayer
from cvqd.testing.daemon import DaemonError, DaemonProcess, simulator_config
from cvqd.testing.frontend_connection import FrontEndError
from cvqd.testing.uml import UmlError, UmlGuest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from cvqd.demo.player import Player

#: seconds for the whole story
_PATIENCE: Final = 55


def main() -> int:
    """Run the demonstration on standard output; exit code 0 if every check held, else 1."""
    screen = Screen(sys.stdout)
    try:
        with _ends_like_ctrl_c(signal.SIGTERM, signal.SIGHUP):
            trio.run(_demonstrate, screen)
    except (UmlError, DaemonError, FrontEndError) as problem:
        screen.failed(str(problem))
    except trio.TooSlowError:
        screen.failed(f"not finished within {_PATIENCE} s")
    return 0 if screen.conclude() else 1


@contextmanager
def _ends_like_ctrl_c(*numbers: signal.Signals) -> Iterator[None]:
    """A terminal that is closed, or whoever else ends us, leaves no daemon and no guest behind."""
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number, handler in before.items():
            if handler is signal.SIG_DFL:  # nohup(1) says otherwise
                signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _demonstrate(screen: Screen) -> None:
    missing = UmlGuest.available()
    with trio.fail_after(_PATIENCE), tempfile.TemporaryDirectory(prefix="cvqd-demo-") as name:
        directory = Path(name)
        screen.opening("a guest, a simulated vDPA network device, and cvqd between them")
        config = simulator_config(directory) | {"log": {"level": "info", "format": "json"}}
        async with DaemonProcess.start(directory, config) as daemon:

            def enter() -> AbstractAsyncContextManager[Player]:
                if missing is None:
                    return UmlPlayer.enter(daemon.socket)
                screen.remark(f"{missing}; the shipped guest driver plays the guest instead")
                return DriverPlayer.enter(daemon.socket)

            await tell(screen, daemon, enter)
