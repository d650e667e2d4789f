"""The daemon as its users run it: a process with a configuration file, two sockets and a log.

Tests, the demonstration and benchmarks start it through this file.  It knows
the command line, the control socket's line protocol and the log's form, and
nothing of what is inside the process.  Everything is awaited on a descriptor:
the log is a pipe, so that "when this event comes" needs no polling.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio
import yaml

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path


class DaemonError(Exception):
    """The daemon did not do what was waited for; the text ends with its last log lines."""


def simulator_config(directory: Path, *, sockets: str = "vm0", **device: Any) -> dict[str, Any]:
    """A configuration on the simulator with all files in ``directory``; ``device`` overrides its keys.

    Four queue pairs, a control queue in a group and an address space of its
    own, a loopback that enforces the receive filters, a log with every event.
    ``sockets`` is the stem of both socket names: paths of Unix sockets hold
    107 bytes, unix(7).
    """
    simulator = {
        "kind": "simulator",
        "mac": "52:54:00:12:34:56",
        "max_queue_pairs": 4,
        "groups": "cvq",
        "address_spaces": 2,
        "datapath": {"kind": "loopback"},
    }
    return {
        "device": simulator | device,
        "frontend": {"socket": str(directory / f"{sockets}.sock")},
        "control": {"socket": str(directory / f"{sockets}.control")},
        "state": {"directory": str(directory / f"{sockets}.state")},
        "log": {"level": "debug", "format": "json"},
    }


#: events that end a command
OUTCOMES: Final = {"cvq.command.acked", "cvq.command.refused", "cvq.command.expired"}


class DaemonProcess:
    """One running daemon.  Made by ``start``; all waiting is bounded, deadlines are in seconds."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        log: trio.lowlevel.FdStream,
        config: Path,
        socket: str,
        control: str,
    ) -> None:
        self.config = config
        self.socket = socket
        self.control = control
        #: Every log event so far, in order.
        self.events: list[dict[str, Any]] = []
        #: Lines on standard output or error that are no log events.
        self.stray: list[str] = []
        self._process = process
        self._log = log
        self._news = trio.Condition()
        self._ended = False

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        directory: Path,
        config: Mapping[str, Any],
        *,
        name: str = "vm0",
        cpu: int | None = None,
        under: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        deadline: float = 20.0,
    ) -> AsyncIterator[DaemonProcess]:
        """Write ``name``.yaml into ``directory``, run the daemon on it until it is ready, kill it at the end.

        ``cpu`` pins it to one core, ``under`` is a command that executes the daemon, ``environment`` is
        added to ours.  Raises DaemonError if it is not ready in time or ends, KeyError for a ``config``
        that does not say where the two sockets are.
        """
        # before there is a process to be left behind
        sockets = config["frontend"]["socket"], config["control"]["socket"]
        path = directory / f"{name}.yaml"
        path.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        pin = [] if cpu is None else ["taskset", "--cpu-list", str(cpu)]
        process, log = _spawn(path, [*pin, *under], environment or {})
        daemon = cls(process, trio.lowlevel.FdStream(log), path, *sockets)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(daemon._follow)
                await daemon.event("service.started", deadline=deadline)
                yield daemon
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # _follow raises nothing, so the one exception inside is the caller's own.
            if len(group.exceptions) != 1:
                raise
            raise group.exceptions[0] from group.exceptions[0].__cause__
        finally:
            daemon.kill()
            with trio.CancelScope(shield=True):
                await daemon._log.aclose()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    async def status(self) -> dict[str, Any]:
        """What ``cvqd status --json`` shows."""
        return await self.request("status")

    async def told(self) -> dict[str, Any]:
        """Status, once ``events`` holds the outcome of every command that it knows of.

        The log may be behind the status, never the other way round.
        """
        status = await self.status()
        if status["commands"]:
            last = status["commands"][-1]["command_id"]
            await self.until(
                lambda event: event["event"] in OUTCOMES and event.get("command_id") == last, "of a command"
            )
        return status

    async def request(self, name: str, *, deadline: float = 5.0, **arguments: Any) -> dict[str, Any]:
        """One request on the control socket; DaemonError if it answers with an error or not at all."""
        line = json.dumps({"request": name, **arguments}).encode() + b"\n"
        try:
            with trio.fail_after(deadline):
                async with await trio.open_unix_socket(self.control) as stream:
                    await stream.send_all(line)
                    answer = bytearray()
                    while not answer.endswith(b"\n"):
                        chunk = await stream.receive_some()
                        if not chunk:
                            break
                        answer += chunk
        except (OSError, trio.TooSlowError) as problem:
            raise DaemonError(self._told(f"control request {name}: {problem!r}")) from None
        if not answer:
            raise DaemonError(self._told(f"control request {name}: no answer"))
        content: dict[str, Any] = json.loads(answer)
        if "error" in content:
            raise DaemonError(f"control request {name}: {content['error']}")
        return content

    async def event(
        self, name: str, *, after: int = 0, deadline: float = 10.0, **fields: Any
    ) -> dict[str, Any]:
        """The first event ``name`` with these field values from index ``after`` on, awaited if need be."""

        def wanted(event: dict[str, Any]) -> bool:
            return event["event"] == name and fields.items() <= event.items()

        return await self.until(wanted, name, after=after, deadline=deadline)

    async def until(
        self, wanted: Callable[[dict[str, Any]], bool], what: str, *, after: int = 0, deadline: float = 10.0
    ) -> dict[str, Any]:
        """The first wanted event from index ``after`` on; DaemonError names ``what`` did not come."""
        try:
            with trio.fail_after(deadline):
                async with self._news:
                    while True:
                        for found in self.events[after:]:
                            if wanted(found):
                                return found
                        after = len(self.events)
                        if self._ended:
                            raise DaemonError(self._told(f"the daemon ended before {what}"))
                        await self._news.wait()
        except trio.TooSlowError:
            raise DaemonError(self._told(f"no event {what} within {deadline:g} s")) from None

    def named(self, name: str) -> list[dict[str, Any]]:
        """All events of one name so far."""
        return [event for event in self.events if event["event"] == name]

    async def stop(self, *, deadline: float = 10.0) -> int:
        """Ask the daemon to end (SIGTERM) and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return await self.wait(deadline=deadline)

    async def wait(self, *, deadline: float = 10.0) -> int:
        """Wait for the daemon's end and the last of its log; its exit code, negative for a signal."""
        pidfd = os.pidfd_open(self._process.pid) if self._process.returncode is None else None
        try:
            with trio.fail_after(deadline):
                if pidfd is not None:
                    await trio.lowlevel.wait_readable(pidfd)
                async with self._news:
                    while not self._ended:
                        await self._news.wait()
        except trio.TooSlowError:
            raise DaemonError(self._told(f"the daemon did not end within {deadline:g} s")) from None
        finally:
            if pidfd is not None:
                os.close(pidfd)
        return self._process.wait()

    def kill(self) -> None:
        """SIGKILL, at once; harmless on a daemon that has ended."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()

    async def _follow(self) -> None:
        pending = b""
        while chunk := await self._log.receive_some(1 << 16):
            *lines, pending = (pending + bytes(chunk)).split(b"\n")
            await self._take(lines)
        await self._take([pending] if pending else [])
        async with self._news:
            self._ended = True
            self._news.notify_all()

    async def _take(self, lines: list[bytes]) -> None:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict) and "event" in event:
                self.events.append(event)
            else:
                self.stray.append(line.decode(errors="replace"))
        async with self._news:
            self._news.notify_all()

    def _told(self, what: str) -> str:
        last = [json.dumps(event) for event in self.events[-15:]] + self.stray[-40:]
        return "\n".join([what, "--- the daemon's last lines ---", *last])


def _spawn(
    config: Path, under: Sequence[str], environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], int]:
    """The process and the reading end of its log."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - the words are ours
            [*under, sys.executable, "-m", "cvqd", "run", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            env={**os.environ, **environment},
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return process, reading
