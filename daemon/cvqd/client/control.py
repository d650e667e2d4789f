"""The control socket's client for short-lived commands: plain sockets, no event loop.

The line protocol is described in ``host.control``.
"""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from cvqd.errors import CvqdError

if TYPE_CHECKING:
    from collections.abc import Iterator


class ControlError(CvqdError):
    """The daemon could not be asked, or refused; ``exit_code`` says which."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def ask(path: str, request: str, *, timeout: float = 5.0, **arguments: Any) -> dict[str, Any]:
    """Answer to one request at the control socket ``path``.

    ControlError with exit code 69 if nobody listens or the daemon hangs up, 77 without permission,
    75 if no answer comes within ``timeout`` seconds or the backlog is full, 76 for a malformed answer,
    71 for any other OS error, and for a refusal the code that the daemon gives, else 70.
    """
    with Following(path, request, timeout=timeout, **arguments) as connection:
        return connection.opening


class Following:
    """A connection with one request: ``opening`` is its answer, the lines of a stream follow.

    Raises what ``ask`` does.
    """

    def __init__(self, path: str, request: str, *, timeout: float = 5.0, **arguments: Any) -> None:
        self._path = path
        self._pending = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _blamed(path, timeout):
                self._socket.settimeout(timeout)
                self._socket.connect(path)
                # a daemon with too many clients may have said so and hung up
                with suppress(BrokenPipeError):
                    self._socket.sendall(json.dumps({"request": request, **arguments}).encode() + b"\n")
                while b"\n" not in self._pending:
                    chunk = self._socket.recv(1 << 16)
                    if not chunk:
                        raise ConnectionResetError
                    self._pending += chunk
            line, _, self._pending = self._pending.partition(b"\n")
            self.opening = _answer(path, line)
            self._socket.settimeout(None)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def fileno(self) -> int:
        """For ``select``: readable when ``take`` would not wait."""
        return self._socket.fileno()

    def take(self) -> list[dict[str, Any]] | None:
        """Objects of the next lines, None at the end; waits for some bytes, which may be less than a line."""
        data, self._pending = self._pending, b""
        if b"\n" not in data:
            with _blamed(self._path, 0):
                chunk = self._socket.recv(1 << 16)
            if not chunk:
                return None
            data += chunk
        *lines, self._pending = data.split(b"\n")
        return [_object(self._path, line) for line in lines]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every line's object, until the daemon ends."""
        while (objects := self.take()) is not None:
            yield from objects


@contextmanager
def _blamed(path: str, timeout: float) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ControlError(f"{path}: no instance is running here", 69) from error
    except ConnectionResetError as error:
        raise ControlError(f"{path}: the instance hung up", 69) from error
    except PermissionError as error:
        raise ControlError(f"{path}: no permission to ask this instance", 77) from error
    except BlockingIOError as error:
        raise ControlError(f"{path}: too many wait to ask this instance", 75) from error
    except TimeoutError as error:
        raise ControlError(f"{path}: no answer within {timeout:g} s", 75) from error
    except OSError as error:
        raise ControlError(f"{path}: {error.strerror or error}", 71) from error


def _answer(path: str, line: bytes) -> dict[str, Any]:
    answer = _object(path, line)
    if "error" in answer:
        code = answer.get("exit_code")
        raise ControlError(f"{path}: {answer['error']}", code if isinstance(code, int) else 70)
    return answer


def _object(path: str, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ControlError(f"{path}: the answer is no JSON object", 76)
    return found
