"""The fields of a control command and of its result, for people and programs that watch.

Values are what JSON can hold: addresses as text, bit masks as lists of names.
Nothing is left out except hash keys, of which only the length is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvqd.errors import GuestError
from cvqd.wire.control_stats import COUNTERS, StatsType, parse_blocks
from cvqd.wire.control_steering import hash_type_names
from cvqd.wire.net_config import format_mac
from cvqd.wire.net_control import (
    Coalescing,
    CoalRxSet,
    CoalTxSet,
    CoalVqGet,
    CoalVqSet,
    GuestOffloadsSet,
    HashConfig,
    MacAddrSet,
    MacTableSet,
    RssConfig,
    RxModeSet,
    StatsGet,
    StatsQuery,
    Unknown,
    VlanAdd,
    VlanDel,
    VqPairsSet,
    decode,
)
from cvqd.wire.virtio import feature_names

if TYPE_CHECKING:
    from cvqd.wire.net_control import Command

Fields = dict[str, object]


def fields_of(data: bytes) -> Fields:
    """Fields of a command, given as bytes; empty if they are not a whole command."""
    try:
        return command_fields(decode(data))
    except GuestError:
        return {}


def command_fields(command: Command) -> Fields:
    """Fields of a command."""
    match command:
        case RxModeSet():
            return {"on": command.on}
        case MacTableSet():
            return {
                "unicast": [format_mac(entry) for entry in command.unicast],
                "multicast": [format_mac(entry) for entry in command.multicast],
            }
        case MacAddrSet():
            return {"mac": format_mac(command.mac)}
        case VlanAdd() | VlanDel():
            return {"vlan": command.vid}
        case VqPairsSet():
            return {"pairs": command.pairs}
        case RssConfig():
            return {
                "hash_types": hash_type_names(command.hash_types),
                "table": list(command.table),
                "unclassified": command.unclassified,
                "max_tx_vq": command.max_tx_vq,
                "key_bytes": len(command.key),
            }
        case HashConfig():
            return {"hash_types": hash_type_names(command.hash_types), "key_bytes": len(command.key)}
        case GuestOffloadsSet():
            return {"offloads": feature_names(command.offloads)}
        case CoalTxSet() | CoalRxSet():
            return command.values._asdict()
        case CoalVqSet():
            return {"queue": command.queue, **command.values._asdict()}
        case CoalVqGet():
            return {"queue": command.queue}
        case StatsGet():
            return {
                "requests": [
                    {"queue": request.queue, "types": _stats_types(request.types)}
                    for request in command.requests
                ]
            }
        case Unknown():
            return {"class": command.class_, "command": command.command}
        case _:
            return {}


def result_fields(data: bytes, result: bytes) -> Fields:
    """Fields of a command's result (the bytes after the ack); ``data`` are the command's bytes."""
    try:
        command = decode(data)
    except GuestError:
        return {}
    match command:
        case CoalVqGet() if len(result) >= 8:
            return Coalescing.parse(result)._asdict()
        case StatsQuery() if len(result) >= 8:
            return {"types": _stats_types(int.from_bytes(result[:8], "little"))}
        case StatsGet() if result:
            return {
                "blocks": [
                    {
                        "queue": block.queue,
                        "type": block.kind.name.lower(),
                        **dict(zip(COUNTERS[block.kind], block.counters, strict=True)),
                    }
                    for block in parse_blocks(result)
                ]
            }
        case _:
            return {}


def _stats_types(word: int) -> list[str]:
    return [kind.name.lower() for kind in StatsType if word & kind.mask]
