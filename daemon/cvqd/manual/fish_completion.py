"""Completion for fish: a line for each word that can be completed."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from cvqd.host.socket_paths import DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cvqd.manual.command_tree import Argument, Command

_HELPERS: Final = """\
# fish completion for cvqd

function __cvqd_of_instance
    for path in @DIRECTORY@/*.control
        string replace --regex '.*/(.*)\\.control' '$1' $path
    end
end

function __cvqd_of_device
    for path in /dev/vhost-vdpa-* /sys/bus/vdpa/devices/*
        string replace /sys/bus/vdpa/devices/ '' $path
    end
end

complete --command cvqd --no-files
"""

_VALUES: Final = {
    "file": "--force-files",
    "directory": "--arguments '(__fish_complete_directories)'",
    "instance": "--arguments '(__cvqd_of_instance)'",
    "device": "--arguments '(__cvqd_of_device)'",
    "": "",
}


def text(tree: Command) -> str:
    """The file ``cvqd.fish``."""
    helpers = _HELPERS.replace("@DIRECTORY@", DIRECTORY)
    return "\n".join([helpers, *_lines(tree, ()), ""])


def _lines(command: Command, seen: tuple[str, ...]) -> Iterator[str]:
    """Lines for a command that stands after the verbs ``seen``, and for those below it."""
    conditions = [f"__fish_seen_subcommand_from {verb}" for verb in seen]
    if command.commands:
        names = " ".join(each.name for each in command.commands)
        conditions.append(f"not __fish_seen_subcommand_from {names}")
    here = f"complete --command cvqd --condition {shlex.quote('; and '.join(conditions))}"
    for each in command.commands:
        yield f"{here} --arguments {each.name} --description {shlex.quote(each.summary)}"
    for option in command.options:
        flags = " ".join(
            f"--long-option {flag[2:]}" if flag[1] == "-" else f"--short-option {flag[1:]}"
            for flag in option.flags
        )
        value = ""
        if option.metavar:
            # exclusive: a value and no file
            value = f" --{'require-parameter' if option.kind == 'file' else 'exclusive'} {_value(option)}"
        yield f"{here} {flags}{value} --description {shlex.quote(option.help)}".replace("  ", " ")
    yield f"{here} --long-option help --description 'show what it takes and does'"
    for operand in command.operands:
        if _value(operand):
            yield f"{here} {_value(operand)}"
    for each in command.commands:
        yield from _lines(each, (*seen, each.name))


def _value(argument: Argument) -> str:
    if argument.choices:
        return f"--arguments {shlex.quote(' '.join(argument.choices))}"
    return _VALUES[argument.kind]
