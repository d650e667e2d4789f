"""Inside the test machine: run the commands that the host sends, one at a time.

Speaks JSON lines over a virtio serial port, see ``virtual_machine``: a request
has ``argv``, ``cwd``, ``env`` and ``timeout``; answers are pieces of ``stdout``
and ``stderr`` (base64) and at the end ``exit``.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

PORT_NAME = "agent"


def main() -> None:
    port = find_port().open("r+b", buffering=0)
    answer(port, ready=os.uname().release)
    buffered = bytearray()
    while piece := port.read(65536):
        buffered += piece
        while b"\n" in buffered:
            line, _, rest = bytes(buffered).partition(b"\n")
            buffered[:] = rest
            run(port, **json.loads(line))


def find_port() -> Path:
    for port in Path("/sys/class/virtio-ports").iterdir():
        if (port / "name").read_text().strip() == PORT_NAME:
            return Path("/dev") / port.name
    sys.exit(f"no virtio serial port is called {PORT_NAME}")


def answer(port, **fields) -> None:
    view = memoryview(json.dumps(fields).encode() + b"\n")
    while view:
        view = view[port.write(view) :]


def run(port, argv, cwd, env, timeout) -> None:
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        answer(port, exit=127, reason=str(error))
        return
    in_time = forward(port, process, time.monotonic() + timeout)
    if not in_time:
        # the command may be gone and only its children hold the streams
        os.killpg(process.pid, signal.SIGKILL)
    answer(port, exit=process.wait(), reason="" if in_time else f"killed after {timeout} s")


def forward(port, process, deadline) -> bool:
    """Pass output on until both streams end; False at the deadline."""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, "stdout")
        selector.register(process.stderr, selectors.EVENT_READ, "stderr")
        while selector.get_map():
            ready = selector.select(max(deadline - time.monotonic(), 0))
            if not ready:
                return False
            for key, _ in ready:
                piece = os.read(key.fd, 65536)
                if piece:
                    answer(port, **{key.data: base64.b64encode(piece).decode()})
                else:
                    selector.unregister(key.fileobj)
    return True


if __name__ == "__main__":
    main()
