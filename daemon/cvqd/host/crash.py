"""The daemon's last words when a fatal signal stops it.

A front-end may shrink a memory file that we have mapped.  The next access then
raises SIGBUS, in the middle of an instruction, and no check of the length
beforehand could prevent that.  The daemon cannot go on, because the guest's
memory is gone.  But the log has to say so: "killed by signal 7" looks like
broken hardware.

A signal handler written in Python would never run: the interpreter defers it to
the end of the current bytecode, and the faulting instruction is retried for
ever.  So the C library calls us directly, on top of the interrupted
interpreter.  That is sound for this signal only: it comes from an access to a
mapping, in the one thread that touches guest memory, while the interpreter
holds no lock half taken.  We write one event, put the previous handler back and
return to the same access, which now ends the process, with a traceback by
``faulthandler`` and the right exit status.

``faulthandler`` alone covers the other fatal signals, including the watchdog's
SIGABRT: its traceback shows where a stalled loop was.
"""

from __future__ import annotations

import ctypes
import faulthandler
import signal
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

    from cvqd.host.logging import StructuredLog

_Handler: Final = ctypes.CFUNCTYPE(None, ctypes.c_int)

#: keeps the callback alive, as the C library may call it at any time
_kept: list[object] = []


def explain(log: StructuredLog) -> None:
    """Report fatal signals on standard error from now on, a lost mapping also as an event."""
    faulthandler.enable()
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p

    def on_bus_error(_number: int) -> None:
        libc.signal(signal.SIGBUS, before)
        log.emit("memory.lost", where=_place(sys._getframe(1)))  # noqa: SLF001 -- what was interrupted
        log.close()

    try:
        handler = _Handler(on_bus_error)
    except MemoryError:
        # libffi cannot make callbacks if it may not write executable code: the traceback has to suffice
        return
    _kept.append(handler)
    before = libc.signal(signal.SIGBUS, ctypes.cast(handler, ctypes.c_void_p))


def _place(frame: FrameType | None) -> str:
    if frame is None:
        return "nowhere"
    return f"{frame.f_globals.get('__name__')}:{frame.f_lineno} {frame.f_code.co_name}"
