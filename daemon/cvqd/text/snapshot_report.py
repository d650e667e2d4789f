"""A snapshot for programs and people, with the keys of ``status``; and the differences between two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cvqd.core.state_commands import carried
from cvqd.telemetry.status import SCHEMA
from cvqd.wire import net_config
from cvqd.wire.net_config import format_mac
from cvqd.wire.virtio import feature_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cvqd.wire.snapshot import Snapshot


def report(snapshot: Snapshot) -> dict[str, Any]:
    """Everything in it but the hash key; SnapshotError if its commands do not lead to its digest."""
    config = net_config.decode(snapshot.config)
    return {
        "schema": SCHEMA,
        "snapshot": {
            "origin": snapshot.origin,
            "features": feature_names(snapshot.features),
            "max_pairs": snapshot.max_pairs,
            "config": config._asdict() | {"mac": format_mac(config.mac)},
            "rings": [{"index": ring.index, "num": ring.num, "base": ring.base} for ring in snapshot.rings],
        },
        "state": carried(snapshot).as_dict(),
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Keys (``state.mac``) whose values differ between two reports, with both; origins are left out."""
    return {
        key: {"before": one, "after": other}
        for key, one, other in _pairs(before, after, "")
        if one != other and key != "snapshot.origin"
    }


def _pairs(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*before, *after}):
        one, other = before.get(name), after.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _pairs(one, other, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", one, other


def as_line(key: str, before: Any, after: Any) -> str:
    """One difference for people: for lists only what was added and removed."""
    if isinstance(before, list) and isinstance(after, list):
        changed = [f"-{_word(one)}" for one in before if one not in after]
        changed += [f"+{_word(other)}" for other in after if other not in before]
        return f"{key}: {' '.join(changed) or 'in another order'}"
    return f"{key}: {_word(before)} -> {_word(after)}"


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}={_word(part)}" for name, part in value.items())
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
