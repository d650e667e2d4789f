"""``cvqd trace``: every control command of an instance as it passes."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from cvqd.verbs import instances
from cvqd.verbs.failure import OutputError
from cvqd.verbs.whole_number import up_to

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from io import FileIO

    from cvqd.client.control import Following
    from cvqd.telemetry.traced import Traced
    from cvqd.verbs import Verbs

EX_UNAVAILABLE: Final = 69


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    trace = verbs.add_parser(
        "trace",
        help="show every control command as it passes",
        description="Show every control command of a guest as it passes, until interrupted: when it was"
        " answered (UTC), its number, name and outcome, the time it took, its fields, what the device"
        " returned, and why it was refused. With --pcap, every command becomes two packets of a capture that"
        " Wireshark opens.",
        epilog="Exit status: 0 interrupted, or --count was reached; 69 no such instance runs, or it ended;"
        " 73 the capture cannot be written; 75 too many clients follow it already; 77 no permission to ask"
        " it.",
    )
    trace.set_defaults(verb=_trace)
    instances.choose(trace, one=True)
    trace.add_argument("--json", action="store_true", help="one object per line")
    trace.add_argument(
        "--pcap",
        metavar="FILE",
        help="write a pcapng capture too; - writes it to standard output, and nothing else there",
    )
    trace.add_argument("--count", metavar="N", type=up_to(), help="end after N commands")


def _trace(options: argparse.Namespace) -> int:
    from cvqd.client.control import Following

    (path,) = instances.control_sockets(options)
    with ExitStack() as stack:
        connection = stack.enter_context(Following(path, "trace"))
        opening = connection.opening
        output = _Output(options, _opened(options.pcap, stack), opening)
        print(f"cvqd: tracing {opening.get('instance')}; times are UTC", file=sys.stderr)
        try:
            ended = _follow(connection, output, options.count)
        except KeyboardInterrupt:
            ended = False
        finally:
            print(f"cvqd: {output.traced} traced, {output.lost} lost", file=sys.stderr)
    if ended:
        print("cvqd: the instance has ended", file=sys.stderr)
    return EX_UNAVAILABLE if ended else 0


def _follow(connection: Following, output: _Output, count: int | None) -> bool:
    """Write commands as they come; whether the daemon ended the stream."""
    from cvqd.telemetry.traced import Traced

    for record in connection:
        if "lost" in record:
            output.gap(record["lost"])
            continue
        output.write(Traced.parse(record))
        if output.traced == count:
            return False
    return True


def _opened(name: str | None, stack: ExitStack) -> Callable[[bytes], None] | None:
    """A function that writes to the capture, unbuffered; OutputError if it cannot be opened."""
    if name is None:
        return None
    if name == "-":
        return _to_standard_output
    file = stack.enter_context(_created(name))

    def write(data: bytes) -> None:
        try:
            # a disk that fills up may take only a part
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            raise OutputError(name, error) from error

    return write


def _created(name: str) -> FileIO:
    from pathlib import Path

    try:
        # unbuffered: closing would try a failed write again
        return Path(name).open("wb", buffering=0)
    except OSError as error:
        raise OutputError(name, error) from error


def _to_standard_output(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


class _Output:
    """Where traced commands go; everything is flushed at once, because somebody is watching."""

    def __init__(
        self, options: argparse.Namespace, capture: Callable[[bytes], None] | None, opening: dict[str, Any]
    ) -> None:
        from cvqd.text import trace_text
        from cvqd.text.paint import Paint

        self.traced = 0
        self.lost = 0
        self._text = trace_text
        self._json = options.json
        self._quiet = options.pcap == "-"
        self._paint = Paint.for_stream(sys.stdout)
        self._capture = capture
        if capture is not None:
            capture(trace_text.capture_head(opening.get("instance", ""), opening.get("device", "")))

    def write(self, traced: Traced) -> None:
        """One command."""
        self.traced += 1
        if self._capture is not None:
            self._capture(b"".join(self._text.packets(traced)))
        if self._quiet:
            return
        if self._json:
            print(json.dumps(self._text.as_json(traced)), flush=True)
        else:
            print(self._text.as_line(traced, self._paint), flush=True)

    def gap(self, lost: int) -> None:
        """Note that ``lost`` commands are missing here."""
        self.lost += lost
        if self._json and not self._quiet:
            print(json.dumps({"lost": lost}), flush=True)
        else:
            print(f"cvqd: {lost} commands are missing here: too many for their reader", file=sys.stderr)
