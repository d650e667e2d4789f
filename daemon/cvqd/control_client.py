"""Asking a running daemon, from a short-lived command: plain sockets, no event loop.

The line protocol is ``host.control``'s.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from cvqd.errors import CvqdError


class ControlError(CvqdError):
    """The daemon could not be asked, or refused; ``exit_code`` says which."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def ask(path: str, request: str, *, timeout: float = 5.0, **arguments: Any) -> dict[str, Any]:
    """Answer to one request at the control socket ``path``.

    ControlError with exit code 69 where nobody listens, 77 without permission,
    75 where no answer comes within ``timeout`` seconds, 76 for an answer that is
    none, and for a refusal the code that the daemon gives it, else 70.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(path)
            connection.sendall(json.dumps({"request": request, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                line = lines.readline()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ControlError(f"{path}: no instance is running here", 69) from error
    except PermissionError as error:
        raise ControlError(f"{path}: no permission to ask this instance", 77) from error
    except TimeoutError as error:
        raise ControlError(f"{path}: no answer within {timeout:g} s", 75) from error
    except OSError as error:
        raise ControlError(f"{path}: {error.strerror or error}", 71) from error
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ControlError(f"{path}: the answer is no JSON object", 76)
    if "error" in answer:
        code = answer.get("exit_code")
        raise ControlError(f"{path}: {answer['error']}", code if isinstance(code, int) else 70)
    return answer
