"""A real guest: an unmodified Linux kernel as an ordinary process.

User Mode Linux runs its own ``virtio_uml`` driver, which is a vhost-user
front-end that passes every queue on, the control queue included, and the stock
``virtio_net`` above it.  This file boots one on given sockets, runs commands
in it, and leaves nothing behind.  It knows no daemon and no network card:
what the commands mean is the caller's business.

The guest's root is the host's file system, read-only (hostfs), so the host's
``ip``, ``ethtool`` and Python run inside.  Commands travel over a socket pair
that the guest sees as ``ttyS0``; ``uml_init.sh`` is the other end.  When the
socket closes, whatever happened to us, the guest powers itself off.

Sources: Linux ``arch/um/drivers/virtio_uml.c``, ``arch/um/drivers/fd.c``,
``fs/hostfs``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from cvqd.testing import uml_kernel
from cvqd.testing.uml_kernel import UmlError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

__all__ = ["Finished", "UmlCommandFailed", "UmlError", "UmlGuest", "UmlTimeout"]

_CONSOLE_TAIL: Final = 4000


class UmlTimeout(UmlError):  # noqa: N818 - the cause, as subprocess.TimeoutExpired
    """The guest did not answer in time; it takes no further command."""


class UmlCommandFailed(UmlError):  # noqa: N818 - as subprocess.CalledProcessError
    """A command that had to succeed ended with another exit code than 0."""


class Finished(NamedTuple):
    """A command that ran to its end in the guest: exit code, standard output and error as they came."""

    status: int
    output: bytes

    @property
    def text(self) -> str:
        """The output as text, without blanks at either end."""
        return self.output.decode(errors="replace").strip()


class UmlGuest:
    """One running guest.  Made by ``boot``; all waiting is bounded."""

    def __init__(self, process: subprocess.Popen[bytes], channel: trio.SocketStream, directory: Path) -> None:
        self._process = process
        self._channel = channel
        self._console = directory / "console"
        self._turn = trio.Lock()
        self._unusable: str | None = None
        self._exited = trio.Event()
        self.release = ""

    @staticmethod
    def available() -> str | None:
        """Why no guest can be booted here, naming the missing packages; None if one can."""
        return uml_kernel.obstacle()

    @classmethod
    @asynccontextmanager
    async def boot(
        cls,
        sockets: Sequence[Path] = (),
        *,
        memory_mib: int = 128,
        cpu: int | None = None,
        deadline: float = 30.0,
    ) -> AsyncIterator[UmlGuest]:
        """Boot a guest with one virtio network card per vhost-user socket, kill it on the way out.

        Each socket must be listening: the kernel tries once, at boot.  ``cpu``
        pins the whole guest to one core of the host.  ``deadline`` is in
        seconds, for the boot alone.  Raises UmlError if the guest does not
        come up.
        """
        reason = cls.available()
        if reason is not None:
            raise UmlError(reason)
        directory = Path(tempfile.mkdtemp(prefix="cvqd-uml-"))
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                command = uml_kernel.command_line(directory, theirs.fileno(), sockets, memory_mib, cpu)
                process = _spawn(command, directory / "console", theirs.fileno())
        except BaseException:
            ours.close()
            shutil.rmtree(directory, ignore_errors=True)
            raise
        channel = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        guest = cls(process, channel, directory)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(guest._reap)
                await guest._greeting(deadline)
                yield guest
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # _reap raises nothing, so the one exception inside is the caller's own.
            if len(group.exceptions) != 1:
                raise
            raise group.exceptions[0] from group.exceptions[0].__cause__
        finally:
            guest._kill()
            channel.socket.close()
            shutil.rmtree(directory, ignore_errors=True)

    async def run(self, command: str, *, deadline: float = 20.0) -> Finished:
        """Run ``command`` in a fresh subshell of the guest's shell; many lines are fine.

        ``deadline`` is in seconds.  Raises UmlTimeout when it passes and
        UmlError when the guest is gone; a failing command is a result.
        """
        async with self._turn:
            if self._unusable is not None:
                raise UmlError(self._told(f"{self._unusable}; cannot run: {command}"))
            nonce = secrets.token_hex(16).encode()
            self._unusable = "a command was cut off"
            with trio.move_on_after(deadline) as scope:
                output, ending = await self._converse(nonce, command)
            if scope.cancelled_caught:
                self._unusable = f"no answer within {deadline:g} s to: {command}"
                raise UmlTimeout(self._told(self._unusable))
            self._unusable = None
            return Finished(int(ending), output)

    async def check(self, command: str, *, deadline: float = 20.0) -> str:
        """Run ``command`` and return its text; raises UmlCommandFailed unless it ends with 0."""
        finished = await self.run(command, deadline=deadline)
        if finished.status != 0:
            raise UmlCommandFailed(self._told(f"{command}: exit code {finished.status}: {finished.text}"))
        return finished.text

    async def load(self, *names: str, deadline: float = 20.0) -> None:
        """Load kernel modules by name with what they depend on; loaded ones are left alone.

        ``deadline`` is in seconds, for all of them.
        """
        lines: list[str] = ["set -e"]
        for path in uml_kernel.modules(self.release, names):
            loaded = path.stem.replace("-", "_")
            lines.append(f"[ -d /sys/module/{loaded} ] || /bin/busybox insmod {self.path(path)}")
        await self.check("\n".join(lines), deadline=deadline)

    async def unload(self, name: str) -> None:
        """Remove one kernel module."""
        await self.check(f"/bin/busybox rmmod {name}")

    @staticmethod
    def path(host: Path) -> str:
        """Where the guest finds a file of the host; its own tmpfs covers some of the host's directories."""
        return uml_kernel.guest_path(host)

    @staticmethod
    def python() -> str:
        """The host's interpreter as a command in the guest: no site packages, quick to start."""
        return f"{UmlGuest.path(Path(sys.executable).resolve())} -I -S"

    async def power_off(self, status: int = 0, *, deadline: float = 10.0) -> int:
        """Power the guest off and return the exit code of its process, ``status`` if all is well."""
        async with self._turn:
            self._unusable = "the guest is powered off"
            farewell = f"off\necho {status} >/proc/exitcode; /bin/busybox poweroff -f\noff\n"
            try:
                with trio.fail_after(deadline):
                    await self._channel.send_all(farewell.encode())
                    return await self.wait()
            except trio.TooSlowError:
                raise UmlTimeout(self._told(f"not powered off within {deadline:g} s")) from None

    async def wait(self) -> int:
        """Wait until the guest's process has ended; its exit code, negative for a signal."""
        await self._exited.wait()
        return self._process.wait()

    @property
    def pid(self) -> int:
        """Process id of the guest, which is its process group too."""
        return self._process.pid

    @property
    def console(self) -> str:
        """What the kernel and init wrote to the console so far."""
        return self._console.read_text(errors="replace")

    async def _greeting(self, deadline: float) -> None:
        line = b""
        with trio.move_on_after(deadline) as scope:
            while not line.endswith(b"\n"):
                line += await self._receive()
        if scope.cancelled_caught:
            raise UmlTimeout(self._told(f"the guest did not boot within {deadline:g} s"))
        word, _, release = line.decode(errors="replace").strip().partition(" ")
        if word != "ready":
            raise UmlError(self._told(f"the guest's first words are {line!r}"))
        self.release = release

    async def _converse(self, nonce: bytes, command: str) -> tuple[bytes, bytes]:
        try:
            await self._channel.send_all(b"%b\n%b\n%b\n" % (nonce, command.encode(), nonce))
        except trio.BrokenResourceError:
            raise UmlError(self._told("the guest is gone")) from None
        mark = b"\n" + nonce + b" "
        said = bytearray()
        while True:
            said += await self._receive()
            _, found, ending = bytes(said[-len(mark) - 8 :]).partition(mark)
            if found and ending.endswith(b"\n"):
                return bytes(said[: len(said) - len(mark) - len(ending)]), ending

    async def _receive(self) -> bytes:
        try:
            chunk = await self._channel.receive_some(1 << 16)
        except trio.BrokenResourceError:
            chunk = b""
        if not chunk:
            raise UmlError(self._told("the guest is gone"))
        return bytes(chunk)

    async def _reap(self) -> None:
        """Wait for the guest's own end; then its helpers go too, so that their copy of the channel closes."""
        pidfd = os.pidfd_open(self._process.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        self._kill()
        self._exited.set()

    def _kill(self) -> None:
        """Kill the process group, at once and for good; a guest that hangs ignores every other signal."""
        if self._process.returncode is None:
            # The leader is not reaped yet, so the group's number is still ours.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _told(self, what: str) -> str:
        return f"{what}\n--- guest console ---\n{self.console[-_CONSOLE_TAIL:]}"


def _spawn(command: Sequence[str], console: Path, channel: int) -> subprocess.Popen[bytes]:
    with console.open("wb") as sink:
        return subprocess.Popen(  # noqa: S603 - the words are ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            pass_fds=[channel],
            env={**os.environ, "PATH": uml_kernel.SEARCH},
            # The group is there before the kernel makes one of its own.
            start_new_session=True,
        )
