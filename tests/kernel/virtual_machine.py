"""A virtual machine that runs commands of this host on a kernel with vhost-vdpa.

QEMU in software emulation, so it runs anywhere.  The host's root is seen
read-only under a memory layer: Python, its environment and this checkout run
inside as they are and nothing they write survives.  Commands go to
``guest_agent`` over a virtio serial port that is QEMU's own standard input and
output.  By hand, in ``tests``: ``python -m kernel.virtual_machine COMMAND…``.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from kernel.kernel_image import CHECKOUT, HERE, kernel_image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kernel.kernel_image import KernelImage

#: Seconds from QEMU's start to the agent's report; 3 on an idle machine.
BOOT_TIMEOUT = 60


# the user namespace is for those who are not root
_OWN_NETWORK = ("unshare", "--net", *(() if os.geteuid() == 0 else ("--map-root-user",)))


class BootError(Exception):
    """The machine did not report in time; the text ends with its console."""


class Result(NamedTuple):
    """A command's exit code (negative: the signal that ended it) and all it wrote."""

    code: int
    stdout: str
    stderr: str


class VirtualMachine:
    """A running machine; a context manager that ends it."""

    def __init__(
        self,
        image: KernelImage,
        *,
        extra: Sequence[str] = (),
        kernel_words: str = "",
        own_network: bool = False,
        memory_mib: int = 1024,
    ) -> None:
        """Start QEMU; call ``wait`` next.

        ``extra`` are further arguments, for more devices, ``kernel_words`` go on the kernel's command
        line.  ``own_network`` gives QEMU a network namespace, so that its taps are nobody else's.
        """
        self._scratch = Path(tempfile.mkdtemp(prefix="cvqd-vm-"))
        self._console = self._scratch / "console"
        self._errors = self._scratch / "qemu"
        self._answers: queue.SimpleQueue[dict[str, str] | None] = queue.SimpleQueue()
        with self._errors.open("wb") as errors:
            self._qemu = subprocess.Popen(
                [
                    *(_OWN_NETWORK if own_network else ()),
                    *_qemu_command(image, self._console, memory_mib, kernel_words),
                    *extra,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "TMPDIR": str(self._scratch)},
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self) -> None:
        """Return when the agent has reported; BootError if it does not."""
        answer = self._next(time.monotonic() + BOOT_TIMEOUT)
        if answer is None or "ready" not in answer:
            ended = self._qemu.poll()
            what = f"no report within {BOOT_TIMEOUT} s" if ended is None else f"QEMU ended with {ended}"
            raise BootError(f"{what}\n{self.console()}")

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path = CHECKOUT,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Result:
        """Run one command to its end; after ``timeout`` seconds it is killed (code -9)."""
        request = {
            "argv": [str(word) for word in argv],
            "cwd": str(cwd),
            "env": dict(env or {}),
            "timeout": timeout,
        }
        assert self._qemu.stdin
        self._qemu.stdin.write(json.dumps(request).encode() + b"\n")
        self._qemu.stdin.flush()
        output = {"stdout": bytearray(), "stderr": bytearray()}
        deadline = time.monotonic() + timeout + 10
        while True:
            answer = self._next(deadline)
            if answer is None:
                raise BootError(f"the machine died under {request['argv']}\n{self.console()}")
            if "exit" in answer:
                break
            for stream, piece in answer.items():
                output[stream] += base64.b64decode(piece)
        stderr = output["stderr"].decode(errors="replace") + answer.get("reason", "")
        return Result(int(answer["exit"]), output["stdout"].decode(errors="replace"), stderr)

    def console(self) -> str:
        """What the kernel and QEMU had to say, for an error."""
        texts = [path.read_text(errors="replace") for path in (self._errors, self._console) if path.exists()]
        return "".join(texts)[-4000:]

    def close(self) -> None:
        """End the machine and remove its scratch folder."""
        self._qemu.kill()
        self._qemu.wait()
        self._reader.join()
        assert self._qemu.stdin
        assert self._qemu.stdout
        self._qemu.stdin.close()
        self._qemu.stdout.close()
        shutil.rmtree(self._scratch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _read(self) -> None:
        assert self._qemu.stdout
        for line in self._qemu.stdout:
            self._answers.put(json.loads(line))
        self._answers.put(None)

    def _next(self, deadline: float) -> dict[str, str] | None:
        try:
            return self._answers.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            return None


def boot(
    *,
    extra: Sequence[str] = (),
    kernel_words: str = "",
    own_network: bool = False,
    memory_mib: int = 1024,
) -> VirtualMachine:
    """A machine that is ready for commands; one that never reports is booted once more, and that is said."""
    image = kernel_image()
    for attempt in (1, 2):
        machine = VirtualMachine(
            image, extra=extra, kernel_words=kernel_words, own_network=own_network, memory_mib=memory_mib
        )
        try:
            machine.wait()
        except BootError as error:
            machine.close()
            if attempt == 2:
                raise
            sys.stderr.write(f"virtual machine: booting once more: {error}\n")
        else:
            return machine
    raise AssertionError


def _qemu_command(image: KernelImage, console: Path, memory_mib: int, kernel_words: str) -> list[str]:
    program = f'"{sys.executable}" -SE "{HERE / "guest_agent.py"}"'
    return [
        "qemu-system-x86_64",
        # a PC with as little as possible: what it lacks need not be probed in emulation
        *("-M", "q35,smm=off,vmport=off,sata=off,smbus=off"),
        *("-accel", "tcg,thread=multi"),
        *("-cpu", "max,la57=off,-smap,-smep,-umip,-pku"),
        *("-smp", "2", "-m", str(memory_mib)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-serial", f"file:{console}"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initramfs)),
        *("-append", f"quiet console=ttyS0 reboot=t panic=-1 mitigations=off {kernel_words} -- {program}"),
        *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", "stdio,id=agent,signal=off"),
        *("-device", "virtserialport,chardev=agent,name=agent"),
    ]


def _main() -> int:
    with boot() as machine:
        result = machine.run(sys.argv[1:] or ["uname", "-a"], timeout=600)
    sys.stdout.write(result.stdout)
    sys.stderr.write(result.stderr)
    return result.code if result.code >= 0 else 128 - result.code


if __name__ == "__main__":
    sys.exit(_main())
