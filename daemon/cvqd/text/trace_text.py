"""Traced commands for people, one line each, and for a capture, two packets each."""

from __future__ import annotations

from time import gmtime, strftime
from typing import TYPE_CHECKING, Any, Final

from cvqd import __version__
from cvqd.text import paint
from cvqd.text.paint import PLAIN, printable
from cvqd.wire import pcapng
from cvqd.wire.command_fields import fields_of, result_fields
from cvqd.wire.trace_frame import Kind, Outcome, TraceFrame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cvqd.telemetry.traced import Traced
    from cvqd.text.paint import Paint

#: entries of a list that are written out
_MANY: Final = 8

_STYLES: Final = {
    "ok": paint.GREEN,
    "err": paint.YELLOW,
    "late": paint.YELLOW,
    "refused": paint.YELLOW,
    "malformed": paint.RED,
    "expired": paint.RED,
}


def as_line(traced: Traced, colour: Paint = PLAIN) -> str:
    """Time of day of the answer (UTC), id, name, outcome, duration, fields, result, reason of a refusal."""
    seconds, rest = divmod(traced.time_ns + traced.elapsed_us * 1000, 1_000_000_000)
    moment = f"{strftime('%H:%M:%S', gmtime(seconds))}.{rest // 1000:06d}"
    outcome = colour(_STYLES.get(traced.outcome, ""), f"{traced.outcome:<9}")
    line = f"{moment}  {traced.command_id:>6}  {traced.command:<18}  {outcome}{traced.elapsed_us:>8} µs"
    return "  ".join(filter(None, (line, _told(traced)))).rstrip()


def as_json(traced: Traced) -> dict[str, Any]:
    """The daemon's record with the fields decoded."""
    record: dict[str, Any] = {
        "time_ns": traced.time_ns,
        "command_id": traced.command_id,
        "command": traced.command,
        "outcome": traced.outcome,
        "ack": traced.ack,
        "elapsed_us": traced.elapsed_us,
        "fields": fields_of(traced.data),
        "bytes": traced.length,
        "data": traced.data.hex(),
    }
    if traced.result:
        record |= {"returned": result_fields(traced.data, traced.result), "result": traced.result.hex()}
    if traced.reason:
        record["reason"] = traced.reason
    return record


def capture_head(instance: str, device: str) -> bytes:
    """What a capture file begins with."""
    comment = "cvqd trace; comments say what a packet means, config/cvqd.lua shows its fields in Wireshark"
    return pcapng.section(f"cvqd {__version__}", comment) + pcapng.interface(pcapng.USER0, instance, device)


def packets(traced: Traced) -> Iterator[bytes]:
    """The command as it came in, and the answer as it went out.

    A late answer reached nobody and comes without its command, which was written when it expired.
    """
    if traced.outcome != "late":
        command = TraceFrame(Kind.COMMAND, Outcome.NONE, traced.command_id, traced.data)
        data = command.encode()
        yield pcapng.packet(
            traced.time_ns,
            data,
            pcapng.Direction.INBOUND,
            " ".join(filter(None, (traced.command, shown(fields_of(traced.data))))),
            length=len(data) - len(traced.data) + traced.length,
        )
    outcome = Outcome.__members__.get(traced.outcome.upper(), Outcome.NONE)
    ack = b"" if traced.ack is None else bytes((traced.ack,))
    answer = TraceFrame(Kind.ANSWER, outcome, traced.command_id, ack + traced.result)
    words = (
        f"{traced.command} {traced.outcome} after {traced.elapsed_us} µs",
        shown(result_fields(traced.data, traced.result)),
        traced.reason,
    )
    yield pcapng.packet(
        traced.time_ns + traced.elapsed_us * 1000,
        answer.encode(),
        pcapng.Direction.OUTBOUND,
        "; ".join(filter(None, words)),
    )


def shown(fields: dict[str, Any]) -> str:
    """``vlan=5``, ``unicast=[a b]``: fields on one line, long lists cut."""
    return printable(" ".join(f"{key}={_value(value)}" for key, value in fields.items()))


def _told(traced: Traced) -> str:
    returned = shown(result_fields(traced.data, traced.result))
    parts = (shown(fields_of(traced.data)), f"-> {returned}" if returned else "", printable(traced.reason))
    return "  ".join(filter(None, parts))


def _value(value: object) -> str:
    if isinstance(value, list):
        more = f" … {len(value)} in all" if len(value) > _MANY else ""
        return f"[{' '.join(_value(entry) for entry in value[:_MANY])}{more}]"
    if isinstance(value, dict):
        return f"({shown(value)})"
    return str(value)
