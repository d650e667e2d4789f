"""The daemon's last words where the processor stops it.

A front-end may shrink a memory file that we have mapped; the next access is a
SIGBUS, in the middle of an instruction, and no length that was checked before
could prevent it.  There is nothing to go on with: the guest's memory is gone.
But the log has to say so, because whoever reads "killed by signal 7" will look
for a broken machine.

A handler of Python's own never runs: it waits for the end of the instruction,
which begins again, for ever.  So the C library calls us right away, on top of
the interpreter that was interrupted.  That is sound for this signal only: it
comes from an access to a mapping, in the one thread that touches guest memory,
while no lock of the interpreter's is half taken.  We write one event, put the
handler back that was there before and return into the same access, which now
ends the process, with a traceback by ``faulthandler`` and its status intact.

``faulthandler`` alone covers what else is fatal, the watchdog's SIGABRT
included: where a stalled loop was standing is in its traceback.
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

#: what the C library may call must not be collected
_kept: list[object] = []


def explain(log: StructuredLog) -> None:
    """From now on what kills the process is told to standard error, a lost mapping also as an event."""
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
        # a libffi that writes its own code, where nothing may: the traceback has to do
        return
    _kept.append(handler)
    before = libc.signal(signal.SIGBUS, ctypes.cast(handler, ctypes.c_void_p))


def _place(frame: FrameType | None) -> str:
    if frame is None:
        return "nowhere"
    return f"{frame.f_globals.get('__name__')}:{frame.f_lineno} {frame.f_code.co_name}"
